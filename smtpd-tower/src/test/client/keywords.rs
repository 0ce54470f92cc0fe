use super::ClientReply;

/// What EHLO or LHLO has announced (RFC 5321 section 4.1.1.1).
///
/// ```
/// # use smtpd_tower::{Pipeline, Server, test::{Client, ClientError}};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), ClientError> {
/// let server = Server::new("mx.example.org", Pipeline::new()).configure(|config| config.max_message_size(1000));
/// let mut client = Client::connect(&server);
/// client.greeting().await?;
/// client.ehlo("client.example").await?;
/// assert_eq!(client.extensions().parameters("size"), Some("1000"));
/// assert!(client.extensions().contains("PIPELINING") && !client.extensions().contains("AUTH"));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EhloKeywords(Vec<(String, String)>);

impl EhloKeywords {
    /// The keywords of such a reply; its first line names the server.
    pub(super) fn of(reply: &ClientReply) -> Self {
        let keywords = reply.lines().skip(1).map(|line| {
            let (keyword, parameters) = line.split_once(' ').unwrap_or((line, ""));
            (keyword.to_owned(), parameters.to_owned())
        });
        Self(keywords.collect())
    }

    /// Whether that keyword was announced, in any case (RFC 5321 section 2.4).
    pub fn contains(&self, keyword: &str) -> bool {
        self.parameters(keyword).is_some()
    }

    /// What follows that keyword, in any case: empty where nothing does, `None` where it was not announced.
    pub fn parameters(&self, keyword: &str) -> Option<&str> {
        self.iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(keyword))
            .map(|(_, parameters)| parameters)
    }

    /// Each keyword with what follows it, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(keyword, parameters)| (&**keyword, &**parameters))
    }
}
