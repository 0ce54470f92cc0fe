use super::ClientReply;

/// The extensions that EHLO or LHLO has announced (RFC 5321 section 4.1.1.1).
///
/// ```
/// # use smtpd_tower::{Pipeline, Server, test::{Client, ClientError}};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), ClientError> {
/// let server = Server::new("mx.example.org", Pipeline::new())
///     .configure(|config| config.max_message_size(1000));
/// let mut client = Client::connect(&server);
/// client.greeting().await?;
/// client.ehlo("client.example").await?;
/// assert_eq!(client.extensions().parameters("size"), Some("1000"));
/// assert!(
///     client.extensions().contains("PIPELINING")
///         && !client.extensions().contains("AUTH")
/// );
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EhloKeywords(Vec<(String, String)>);

impl EhloKeywords {
    /// Reads the keywords of an EHLO reply; its first line names the server.
    pub(super) fn of(reply: &ClientReply) -> Self {
        let keywords = reply.lines().skip(1).map(|line| {
            let (keyword, parameters) = line.split_once(' ').unwrap_or((line, ""));
            (keyword.to_owned(), parameters.to_owned())
        });
        Self(keywords.collect())
    }

    /// Returns whether that keyword was announced, ignoring case (RFC 5321 section 2.4).
    pub fn contains(&self, keyword: &str) -> bool {
        self.parameters(keyword).is_some()
    }

    /// Returns the parameters of that keyword, ignoring case: empty if it has none, `None` if it was not announced.
    pub fn parameters(&self, keyword: &str) -> Option<&str> {
        self.iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(keyword))
            .map(|(_, parameters)| parameters)
    }

    /// Returns each keyword with its parameters, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(keyword, parameters)| (&**keyword, &**parameters))
    }
}
