/// Returns the name of this machine, or `localhost` if it has none.
///
/// A server cannot use a name that is not a domain, such as one with an underscore: it returns an error that says so when it
/// serves a listener.
///
/// ```
/// assert!(!smtpd_tower::system_hostname().is_empty());
/// ```
pub fn system_hostname() -> String {
    let name = hostname::get()
        .ok()
        .and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}
