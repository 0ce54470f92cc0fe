//! The PEM encryption older than PKCS#8: `Proc-Type: 4,ENCRYPTED` and `DEK-Info: cipher,iv`.
//!
//! The form is RFC 1421's (section 4.6.1); ciphers, key derivation and padding are OpenSSL's.

use aes::{Aes128Dec, Aes192Dec, Aes256Dec};
use cbc::cipher::{BlockCipherDecrypt, BlockModeDecrypt, KeyInit, KeyIvInit, block_padding::Pkcs7};
use des::TdesEde3;
use md5::{Digest, Md5};
use zeroize::Zeroizing;

use super::error::Problem;

/// The longest key of the ciphers below, in bytes.
const MAX_KEY: usize = 32;
const MD5_LEN: usize = 16;
const SALT_LEN: usize = 8;

/// Decrypts the key in `encrypted` in place.
pub(super) fn decrypt(
    dek_info: Option<&str>,
    encrypted: Vec<u8>,
    passphrase: &str,
) -> Result<Zeroizing<Vec<u8>>, Problem> {
    let dek_info = dek_info.unwrap_or_default();
    let unsupported = || Problem::EncryptionUnsupported(format!("DEK-Info: {dek_info:?}").into());
    let (cipher, iv) = dek_info.split_once(',').ok_or_else(unsupported)?;
    let decrypt = cipher_named(cipher.trim()).ok_or_else(unsupported)?;
    let iv = hex(iv.trim()).ok_or_else(unsupported)?;
    let salt = iv.first_chunk().ok_or_else(unsupported)?;
    let key = bytes_to_key(passphrase, salt);
    let mut text = Zeroizing::new(encrypted);
    let len = decrypt(&*key, &iv, &mut text).ok_or(Problem::PassphraseWrong)?;
    text.truncate(len);
    Ok(text)
}

/// Returns the length of the plain text, or `None` if the length or the padding is wrong.
type Decrypt = fn(key: &[u8], iv: &[u8], text: &mut [u8]) -> Option<usize>;

fn cipher_named(name: &str) -> Option<Decrypt> {
    Some(match name {
        "AES-128-CBC" => cbc_decrypt::<Aes128Dec>,
        "AES-192-CBC" => cbc_decrypt::<Aes192Dec>,
        "AES-256-CBC" => cbc_decrypt::<Aes256Dec>,
        "DES-EDE3-CBC" => cbc_decrypt::<TdesEde3>,
        _ => return None,
    })
}

fn cbc_decrypt<C: BlockCipherDecrypt + KeyInit>(
    key: &[u8],
    iv: &[u8],
    text: &mut [u8],
) -> Option<usize> {
    let key = key.get(..C::key_size())?;
    let cipher = cbc::Decryptor::<C>::new_from_slices(key, iv).ok()?;
    cipher
        .decrypt_padded::<Pkcs7>(text)
        .ok()
        .map(|plain| plain.len())
}

/// OpenSSL's `EVP_BytesToKey` with MD5 and one round: each block of the key is the digest of the
/// block before it, the passphrase and the salt.
fn bytes_to_key(passphrase: &str, salt: &[u8; SALT_LEN]) -> Zeroizing<[u8; MAX_KEY]> {
    let mut key = Zeroizing::new([0; MAX_KEY]);
    let mut md5 = Md5::new();
    for block in key.chunks_exact_mut(MD5_LEN) {
        md5.update(passphrase);
        md5.update(salt);
        let digest = Zeroizing::new(<[u8; MD5_LEN]>::from(md5.finalize_reset()));
        block.copy_from_slice(digest.as_slice());
        md5.update(digest.as_slice());
    }
    key
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let byte = |pair: &[u8]| {
        let digits = std::str::from_utf8(pair).ok()?;
        if !pair.iter().all(u8::is_ascii_hexdigit) || pair.len() != 2 {
            return None;
        }
        u8::from_str_radix(digits, 16).ok()
    };
    text.as_bytes().chunks(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_headers_and_text_are_refused() {
        let iv = "00112233445566778899AABBCCDDEEFF";
        let table = [
            (None, 16, true),
            (Some(String::new()), 16, true),
            (Some("AES-256-CBC".to_owned()), 16, true),
            (Some(format!("RC2-CBC,{iv}")), 16, true),
            (Some("AES-256-CBC,".to_owned()), 16, true),
            (Some("AES-256-CBC,00112233".to_owned()), 16, true),
            (Some(format!("AES-256-CBC,{iv}0")), 16, true),
            (
                Some("AES-256-CBC,+0+1+2+3+4+5+6+7+8+9+A+B+C+D+E+F".to_owned()),
                16,
                true,
            ),
            (Some(format!("AES-256-CBC,{iv}00")), 16, false),
            (Some(format!("DES-EDE3-CBC,{iv}")), 16, false),
            (Some(format!("AES-256-CBC,{iv}")), 15, false),
            (Some(format!("AES-256-CBC,{iv}")), 0, false),
        ];
        for (dek_info, len, unsupported) in table {
            let problem = decrypt(dek_info.as_deref(), vec![0; len], "x").unwrap_err();
            let found = matches!(problem, Problem::EncryptionUnsupported(_));
            assert_eq!(found, unsupported, "{dek_info:?} {problem:?}");
            assert_eq!(
                matches!(problem, Problem::PassphraseWrong),
                !unsupported,
                "{dek_info:?}"
            );
        }
    }
}
