use super::{Body, BodyError};

impl Body {
    /// Limits the body to `limit` bytes: in place of the chunk that exceeds it, the body yields [`BodyError::TooLarge`], and
    /// nothing after that. Bytes that were [prepended](Self::prepend) before count too; those prepended afterwards do not.
    ///
    /// To limit every message of a service use [`SizeLimitLayer`](crate::layer::SizeLimitLayer), which also rejects a message by
    /// its declared size, and the server's [`Limits::message_size`](smtpd_core::Limits::message_size).
    ///
    /// ```
    /// use smtpd_tower::{Body, BodyError};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let body = || Body::from("Hello\r\n");
    /// assert!(body().limited(7).collect().await.is_ok());
    /// assert!(matches!(body().limited(6).collect().await, Err(BodyError::TooLarge)));
    /// # }
    /// ```
    #[must_use]
    pub fn limited(self, limit: u64) -> Self {
        let mut left = limit;
        self.try_inspect(move |chunk| {
            let bytes = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            left = left.checked_sub(bytes).ok_or(BodyError::TooLarge)?;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::in_pieces;

    #[tokio::test]
    async fn a_limited_body_yields_nothing_of_the_chunk_that_goes_beyond() {
        let body = || in_pieces(["12", "345", "6"], Ok(()));
        assert_eq!(body().limited(6).collect().await.unwrap(), "123456");
        let mut body = body().limited(4);
        assert_eq!(body.chunk().await.unwrap().unwrap(), "12");
        let error = body.chunk().await.unwrap().unwrap_err();
        assert!(matches!(error, BodyError::TooLarge));
        assert!(body.chunk().await.is_none());
    }

    #[tokio::test]
    async fn what_is_prepended_before_the_limit_counts_and_what_comes_later_does_not() {
        let before = Body::from("34").prepend("12").limited(3);
        assert!(before.collect().await.is_err());
        let after = Body::from("34").limited(2).prepend("12");
        assert_eq!(after.collect().await.unwrap(), "1234");
    }
}
