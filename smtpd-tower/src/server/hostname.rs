/// This machine's name, or `localhost` where it has none.
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
