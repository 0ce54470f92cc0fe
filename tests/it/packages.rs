//! The packages that are published.

use std::{fs, path::PathBuf, process::Command};

const PACKAGES: [&str; 2] = ["smtpd-core", "smtpd-tower"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// What `cargo package` packs, as paths within the package.
fn packed(package: &str) -> Vec<String> {
    let listed = Command::new(env!("CARGO"))
        .args(["package", "--list", "--offline", "--allow-dirty", "-p"])
        .arg(package)
        .current_dir(root())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&listed.stderr);
    assert!(listed.status.success(), "{package}: {said}");
    let list = String::from_utf8(listed.stdout).unwrap();
    list.lines().map(str::to_owned).collect()
}

/// Scanners of packages report private keys, whatever they are for.
#[test]
fn no_package_holds_a_key_or_a_certificate() {
    for package in PACKAGES {
        let files = packed(package);
        assert!(files.len() > 50, "{package}: {files:?}");
        for file in files {
            let ends = [".key", ".pem", ".crt", ".der", ".p12"];
            let is_key = ends.iter().any(|end| file.ends_with(end));
            assert!(!is_key, "{package} holds {file}");
            // What Cargo generates is not there.
            let text = fs::read_to_string(root().join(package).join(&file)).unwrap_or_default();
            let mut lines = text.lines();
            let begins = |line: &str| line.starts_with("-----BEGIN ");
            assert!(
                !lines.any(begins),
                "{package}/{file} holds a section of PEM"
            );
        }
    }
}

#[test]
fn each_package_has_its_page_and_both_licences() {
    for package in PACKAGES {
        let files = packed(package);
        for name in ["README.md", "LICENSE-MIT", "LICENSE-APACHE"] {
            assert!(files.iter().any(|file| file == name), "{package}: {name}");
        }
        for name in ["LICENSE-MIT", "LICENSE-APACHE"] {
            let [own, shared] = [root().join(package), root()]
                .map(|directory| fs::read_to_string(directory.join(name)).unwrap());
            assert!(own == shared, "{package}/{name} is another text");
        }
    }
}

/// rustdoc leaves them out; crates.io and GitHub show them.
#[test]
fn no_page_shows_the_hidden_lines_of_an_example() {
    for package in PACKAGES {
        let page = fs::read_to_string(root().join(package).join("README.md")).unwrap();
        let code = page.split("```").skip(1).step_by(2);
        for example in code.filter(|code| code.starts_with("rust")) {
            let hidden = example
                .lines()
                .find(|line| line.trim_start().starts_with("# "));
            assert_eq!(hidden, None, "{package}");
        }
    }
}
