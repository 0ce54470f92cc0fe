//! Private keys: encrypted in the older form here, and read there; and no text at all costs much time or memory.
#![no_main]

use aes::{Aes128, Aes192, Aes256};
use cbc::{
    Encryptor,
    cipher::{BlockCipherEncrypt, BlockModeEncrypt, KeyInit, KeyIvInit, block_padding::Pkcs7},
};
use des::TdesEde3;
use libfuzzer_sys::fuzz_target;
use md5::{Digest, Md5};
use smtpd_tower::fuzzing::tls;
use smtpd_tower_fuzz::{Choices, base64};

fuzz_target!(|input: &[u8]| {
    check_round_trip(Choices(input));
    check_pem(input);
    // What is behind PEM and base64, without them in the way.
    for label in ["PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "EC PRIVATE KEY"] {
        check_pem(pem(label, "", input).as_bytes());
    }
});

fn check_pem(pem: &[u8]) {
    match tls::private_key(pem, "secret") {
        Ok(key) => assert!(key.secret_der().len() <= pem.len()),
        Err(error) => {
            assert!(
                error.len() <= 200 + 10 * pem.len() && !error.contains(char::is_control),
                "{error:?}"
            );
        }
    }
}

fn check_round_trip(mut choices: Choices<'_>) {
    let (cipher, damage) = (choices.below(4), choices.byte());
    let iv: Vec<u8> = (0..[8, 16, 16, 16][cipher])
        .map(|_| choices.byte())
        .collect();
    let passphrase = format!("{:?}", choices.bytes(4));
    let key = private_key(choices.0);
    let salt = &iv[..8];
    let (name, encrypted) = match cipher {
        0 => (
            "DES-EDE3-CBC",
            encrypt::<TdesEde3>(&passphrase, salt, &iv, &key),
        ),
        1 => (
            "AES-128-CBC",
            encrypt::<Aes128>(&passphrase, salt, &iv, &key),
        ),
        2 => (
            "AES-192-CBC",
            encrypt::<Aes192>(&passphrase, salt, &iv, &key),
        ),
        _ => (
            "AES-256-CBC",
            encrypt::<Aes256>(&passphrase, salt, &iv, &key),
        ),
    };
    let iv: String = iv.iter().map(|byte| format!("{byte:02X}")).collect();
    let headers = format!("Proc-Type: 4,ENCRYPTED\nDEK-Info: {name},{iv}\n\n");
    let text = pem("EC PRIVATE KEY", &headers, &encrypted);
    let read = tls::private_key(text.as_bytes(), &passphrase).expect("the key");
    assert_eq!(read.secret_der(), key);
    if damage != 0 {
        let wrong = tls::private_key(text.as_bytes(), &format!("{passphrase}{damage}"));
        assert!(wrong.is_err_and(|error| error.contains("passphrase")));
    }
}

/// A SEQUENCE that begins with a version, as all three forms of keys do.
fn private_key(content: &[u8]) -> Vec<u8> {
    let content = [&[2, 1, 1], content].concat();
    let len = match content.len() {
        len @ ..0x80 => vec![len as u8],
        len @ ..0x100 => vec![0x81, len as u8],
        len => [&[0x82], &(len as u16).to_be_bytes()[..]].concat(),
    };
    [&[0x30], &len[..], &content].concat()
}

/// EVP_BytesToKey of OpenSSL with MD5 and one round, and CBC.
fn encrypt<C: BlockCipherEncrypt + KeyInit>(
    passphrase: &str,
    salt: &[u8],
    iv: &[u8],
    text: &[u8],
) -> Vec<u8> {
    let mut key = Vec::new();
    while key.len() < C::key_size() {
        let last = &key[key.len().saturating_sub(16)..];
        let next = Md5::digest([last, passphrase.as_bytes(), salt].concat());
        key.extend_from_slice(&next);
    }
    let cipher =
        Encryptor::<C>::new_from_slices(&key[..C::key_size()], iv).expect("lengths that fit");
    let mut buffer = [text, &[0; 16]].concat();
    cipher
        .encrypt_padded::<Pkcs7>(&mut buffer, text.len())
        .expect("room")
        .to_vec()
}

fn pem(label: &str, headers: &str, content: &[u8]) -> String {
    let text = base64(content);
    format!("-----BEGIN {label}-----\n{headers}{text}\n-----END {label}-----\n")
}
