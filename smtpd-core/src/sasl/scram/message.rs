//! The messages of the client (RFC 5802 section 7).

use zeroize::Zeroizing;

use super::super::{SaslError, base64, gs2};

/// `client-first-message-bare`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct First<'a> {
    pub(super) username: String,
    pub(super) nonce: &'a str,
}

/// `client-final-message`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Final<'a> {
    pub(super) without_proof: &'a str,
    /// As it was sent, in base64.
    pub(super) binding: &'a str,
    pub(super) nonce: &'a str,
    pub(super) proof: Zeroizing<Vec<u8>>,
}

/// `[reserved-mext ","] username "," nonce ["," extensions]`; no mandatory extension is supported, so each is an error.
pub(super) fn first(bare: &str) -> Result<First<'_>, SaslError> {
    let mut attributes = bare.split(',');
    let username = gs2::saslname(value(attributes.next(), "n=")?)?;
    let nonce = value(attributes.next(), "r=")?;
    // RFC 5802 section 7: `printable = %x21-2B / %x2D-7E`; the comma was already removed.
    if nonce.is_empty() || !nonce.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(SaslError::Malformed);
    }
    extensions(attributes)?;
    Ok(First { username, nonce })
}

/// `channel-binding "," nonce ["," extensions] "," proof`.
pub(super) fn last(message: &str) -> Result<Final<'_>, SaslError> {
    let (without_proof, proof) = message.rsplit_once(",p=").ok_or(SaslError::Malformed)?;
    let mut attributes = without_proof.split(',');
    let binding = value(attributes.next(), "c=")?;
    let nonce = value(attributes.next(), "r=")?;
    extensions(attributes)?;
    base64::decode(binding.as_bytes()).map_err(|_| SaslError::Malformed)?;
    let proof = base64::decode(proof.as_bytes()).map_err(|_| SaslError::Malformed)?;
    Ok(Final {
        without_proof,
        binding,
        nonce,
        proof,
    })
}

fn value<'a>(attribute: Option<&'a str>, name: &str) -> Result<&'a str, SaslError> {
    attribute
        .and_then(|attribute| attribute.strip_prefix(name))
        .ok_or(SaslError::Malformed)
}

/// Optional extensions are ignored; `m` announces one that must not be ignored (RFC 5802 section 5.1).
fn extensions<'a>(mut attributes: impl Iterator<Item = &'a str>) -> Result<(), SaslError> {
    let is_optional = |attribute: &str| {
        let (name, value) = attribute.split_once('=').unwrap_or_default();
        matches!(name.as_bytes(), [letter] if letter.is_ascii_alphabetic() && *letter != b'm')
            && !value.is_empty()
            && !value.contains('\0')
    };
    if attributes.all(is_optional) {
        Ok(())
    } else {
        Err(SaslError::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_messages() {
        for (bare, username, nonce) in [
            ("n=user,r=abc", "user", "abc"),
            ("n=a=2Cb=3Dc,r==/+!", "a,b=c", "=/+!"),
            ("n=user,r=abc,x=y,Z=a=b", "user", "abc"),
        ] {
            let want = First {
                username: username.to_owned(),
                nonce,
            };
            assert_eq!(first(bare), Ok(want), "{bare}");
        }
        for bare in [
            "",
            "n=user",
            "n=user,",
            "n=user,r=",
            "n=,r=abc",
            "r=abc,n=user",
            "m=x,n=user,r=abc",
            "n=user,r=abc,m=x",
            "n=user,r=abc,x",
            "n=user,r=abc,x=",
            "n=user,r=abc,xy=z",
            "n=user,r=abc,",
            "n=a=b,r=abc",
            "n=user,r=a b",
            "n=user,r=ü",
            "n=user,r=a\x7f",
            "N=user,r=abc",
        ] {
            assert_eq!(first(bare), Err(SaslError::Malformed), "{bare}");
        }
    }

    #[test]
    fn final_messages() {
        let message = last("c=biws,r=abc,x=y,p=AAAA").unwrap();
        assert_eq!(message.without_proof, "c=biws,r=abc,x=y");
        assert_eq!((message.binding, message.nonce), ("biws", "abc"));
        assert_eq!(*message.proof, [0; 3]);
        for message in [
            "",
            "c=biws,r=abc",
            "c=biws,p=AAAA",
            "r=abc,c=biws,p=AAAA",
            "c=biws,r=abc,p=AAA",
            "c=biw,r=abc,p=AAAA",
            "c=biws,r=abc,p=AAAA,x=y",
            "c=biws,r=abc,m=y,p=AAAA",
            "p=AAAA",
        ] {
            assert_eq!(last(message), Err(SaslError::Malformed), "{message}");
        }
    }
}
