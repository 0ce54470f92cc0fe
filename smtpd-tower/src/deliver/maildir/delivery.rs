use std::sync::Arc;

use smtpd_core::reply::Reply;

use super::{super::newline::Lines, Maildir, MaildirError, draft::Draft, folders::Folders};
use crate::{
    body::{Body, BodyError},
    disk::OnDisk,
    session::Session,
};

/// The number of bytes gathered before they are written; a smaller message is delivered in one go.
pub(super) const BUFFER: usize = 64 * 1024;

/// A message on its way into a maildir.
pub(super) struct Delivery {
    maildir: Maildir,
    draft: Option<OnDisk<Draft>>,
    lines: Lines,
    /// What was not written yet.
    bytes: Vec<u8>,
}

/// The reason why a message was not delivered.
pub(super) enum Failure {
    Body(BodyError),
    Maildir(MaildirError),
}

impl Delivery {
    pub(super) const fn new(maildir: Maildir, lines: Lines) -> Self {
        Self {
            maildir,
            draft: None,
            lines,
            bytes: Vec::new(),
        }
    }

    /// Writes the message as it arrives, and delivers it once it is complete. Returns its id.
    pub(super) async fn run(mut self, body: Body) -> Result<String, Failure> {
        let done = match self.receive(body).await {
            Ok(()) => self.commit().await.map_err(Failure::Maildir),
            Err(failure) => Err(failure),
        };
        let draft = self.draft.take().and_then(OnDisk::into_inner);
        match done {
            Ok(()) => Ok(draft.map(Draft::keep).unwrap_or_default()),
            Err(failure) => {
                self.remove(draft).await;
                Err(failure)
            }
        }
    }

    async fn receive(&mut self, mut body: Body) -> Result<(), Failure> {
        while let Some(chunk) = body.chunk().await {
            self.lines.append(&chunk?, &mut self.bytes);
            if self.bytes.len() >= BUFFER {
                self.write().await?;
            }
        }
        self.lines.finish(&mut self.bytes);
        Ok(())
    }

    async fn write(&mut self) -> Result<(), MaildirError> {
        let permits = self.maildir.permits.clone();
        let (draft, mut bytes) = (self.draft.take(), std::mem::take(&mut self.bytes));
        let job = self.maildir.blocking(move |folders, _permit| {
            let draft = append(draft, &bytes, folders)?;
            bytes.clear();
            Ok((OnDisk::new(draft, permits), bytes))
        });
        let (draft, bytes) = job.await?;
        self.draft = Some(draft);
        self.bytes = bytes;
        Ok(())
    }

    /// Moves the message into `new`. After a crash, it must exist there before the client receives 250 (RFC 5321 section 6.1).
    async fn commit(&mut self) -> Result<(), MaildirError> {
        let permits = self.maildir.permits.clone();
        let (draft, bytes) = (self.draft.take(), std::mem::take(&mut self.bytes));
        // A job that has begun cannot be dropped with this future, but it can see that the future is gone.
        let wanted = Arc::new(());
        let still_wanted = Arc::downgrade(&wanted);
        let job = self.maildir.blocking(move |folders, permit| {
            let is_wanted = || still_wanted.strong_count() > 0;
            let draft = append(draft, &bytes, folders)?.arrive(is_wanted)?;
            let mark = folders.arrivals.begin(permit);
            Ok((OnDisk::new(draft, permits), mark))
        });
        let (draft, mark) = job.await?;
        drop(wanted);
        self.draft = Some(draft);
        let folders = &self.maildir.folders;
        let synced = folders.arrivals.done(mark).await;
        synced.map_err(|error| MaildirError::new("sync directory", folders.arrived(), error))
    }

    async fn remove(&self, draft: Option<Draft>) {
        let Some(draft) = draft else { return };
        let draft = OnDisk::new(draft, self.maildir.permits.clone());
        // If that fails, `clean_tmp` does so.
        let _ = self.maildir.permits.run(|| drop(draft.into_inner())).await;
    }
}

pub(super) fn append(
    draft: Option<OnDisk<Draft>>,
    bytes: &[u8],
    folders: &Arc<Folders>,
) -> Result<Draft, MaildirError> {
    let mut draft = match draft.and_then(OnDisk::into_inner) {
        Some(draft) => draft,
        None => Draft::create(folders.clone())?,
    };
    draft.write(bytes)?;
    Ok(draft)
}

impl From<BodyError> for Failure {
    fn from(error: BodyError) -> Self {
        Self::Body(error)
    }
}

impl From<MaildirError> for Failure {
    fn from(error: MaildirError) -> Self {
        Self::Maildir(error)
    }
}

impl Failure {
    /// Returns the reply to a message that was not delivered, unless the error is a fault.
    pub(super) fn reply(self, session: &Session) -> Result<Reply, MaildirError> {
        match self {
            Self::Body(error) => Ok(session.reply_to(error)),
            Self::Maildir(error) => Err(error),
        }
    }
}
