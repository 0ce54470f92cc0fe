//! The GS2 header that begins the messages of SCRAM and OAUTHBEARER (RFC 5801 section 4, RFC 5802 section 7).

use super::SaslError;

/// What the client says about channel binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BindingFlag<'a> {
    /// `n`: the client cannot use it.
    Unsupported,
    /// `y`: the client could use it, but believes that the server cannot.
    Unused,
    /// `p`: the client uses the binding with this name.
    Required(&'a str),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header<'a> {
    pub(super) flag: BindingFlag<'a>,
    pub(super) authzid: Option<String>,
    /// The whole header, including the comma at its end.
    #[cfg_attr(not(feature = "scram"), allow(dead_code))]
    pub(super) text: &'a str,
}

/// Parses `gs2-header = gs2-cbind-flag "," [ authzid ] ","`. Returns it and the rest.
pub(super) fn parse(message: &str) -> Result<(Header<'_>, &str), SaslError> {
    let (flag, rest) = message.split_once(',').ok_or(SaslError::Malformed)?;
    let (authzid, rest) = rest.split_once(',').ok_or(SaslError::Malformed)?;
    let header = Header {
        flag: parse_flag(flag)?,
        authzid: match authzid {
            "" => None,
            authzid => Some(saslname(
                authzid.strip_prefix("a=").ok_or(SaslError::Malformed)?,
            )?),
        },
        text: message.strip_suffix(rest).unwrap_or_default(),
    };
    Ok((header, rest))
}

fn parse_flag(flag: &str) -> Result<BindingFlag<'_>, SaslError> {
    let is_name = |name: &str| {
        let mut bytes = name.bytes();
        !name.is_empty()
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
    };
    match flag {
        "n" => Ok(BindingFlag::Unsupported),
        "y" => Ok(BindingFlag::Unused),
        _ => flag
            .strip_prefix("p=")
            .filter(|name| is_name(name))
            .map(BindingFlag::Required)
            .ok_or(SaslError::Malformed),
    }
}

/// RFC 5802 section 5.1: `,` and `=` are sent as `=2C` and `=3D`; any other `=` is an error.
pub(super) fn saslname(text: &str) -> Result<String, SaslError> {
    let mut parts = text.split('=');
    let mut name = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (byte, rest) = match (part.strip_prefix("2C"), part.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (_, Some(rest)) => ('=', rest),
            _ => return Err(SaslError::Malformed),
        };
        name.push(byte);
        name.push_str(rest);
    }
    if name.is_empty() {
        return Err(SaslError::Malformed);
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        use BindingFlag::{Required, Unsupported, Unused};
        let good = [
            ("n,,rest", Unsupported, None, "n,,", "rest"),
            ("y,,", Unused, None, "y,,", ""),
            (
                "p=tls-unique,,n=a,,",
                Required("tls-unique"),
                None,
                "p=tls-unique,,",
                "n=a,,",
            ),
            (
                "n,a=x=2Cy=3Dz,n=b",
                Unsupported,
                Some("x,y=z"),
                "n,a=x=2Cy=3Dz,",
                "n=b",
            ),
            ("n,a=ü,", Unsupported, Some("ü"), "n,a=ü,", ""),
        ];
        for (message, flag, authzid, text, rest) in good {
            let authzid = authzid.map(str::to_owned);
            let header = Header {
                flag,
                authzid,
                text,
            };
            assert_eq!(parse(message), Ok((header, rest)), "{message}");
        }
        for message in [
            "",
            "n",
            "n,",
            ",,",
            "N,,",
            "x,,",
            "nn,,",
            "p,,",
            "p=,,",
            "p=a b,,",
            "p=tls_unique,,",
            "n,b,",
            "n,a=,",
            "n,a==,",
            "n,a=x=2c,",
            "n,a=x=2,",
            "n,user=x,",
        ] {
            assert_eq!(parse(message), Err(SaslError::Malformed), "{message}");
        }
    }
}
