mod delivery;
mod dir_sync;
mod disk;
mod draft;
mod error;
mod folders;
mod name;
mod size;

use std::{
    fmt,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use smtpd_core::reply::Reply;
use tower_service::Service;

pub use self::error::MaildirError;
use self::{delivery::Delivery, draft::Draft, folders::Folders};
use super::{
    header::HeaderLines,
    newline::{Lines, Newline},
};
use crate::{
    disk::{DiskPermit, DiskPermits},
    phase::{Data, Request},
    session::QueueId,
};

/// Stores each message as a file of a maildir, once for all its recipients.
///
/// A message is written into `tmp`, synced to disk, moved into `new`, and the move is synced too; only then does the client
/// receive 250. So a message appears whole or not at all, and an acknowledged message survives a crash. A message that is
/// incomplete, no longer wanted (the client has gone, a timeout) or cannot be written leaves no file. Clones are cheap and share
/// their fsyncs of `new`.
///
/// A slow disk slows down only deliveries: no more of them use a thread at a time than there are [`DiskPermits`], and the others
/// wait without one. The engine's timeout for a delivery includes that wait.
///
/// The name of a file ends with `,S=` and its size in bytes, as in Maildir++, so that IMAP servers and quotas need not look at
/// the file.
///
/// The file holds `Return-Path`, one `Delivered-To` for each recipient, and the message as it was received, with CRLF unless
/// [`newline`](Self::newline) is set. These
/// lines show all recipients of the envelope, including those of a `Bcc`, to every reader of the maildir;
/// [`delivered_to`](Self::delivered_to) can turn them off.
///
/// The maildir is created when the first message arrives, for its owner alone unless [`folder_mode`](Self::folder_mode) is set;
/// [`create`](Self::create) does so earlier, and checks that messages can be stored. The directory above must exist.
///
/// | failure | reply |
/// |---|---|
/// | the message itself, see [`BodyError`](crate::BodyError) | its [reply](crate::BodyError::reply) |
/// | anything else | that of [`recover`](crate::reply::recover()) to the [`MaildirError`]: 452 4.3.1 if the disk is full, 452 4.2.2 if the owner's quota is used up, otherwise 451 4.3.0 |
///
/// Each `MaildirError` is a fault, so its text goes to the log and to [`Server::on_error`](crate::server::Server::on_error).
///
/// Each service has one maildir. For one per user, see [below](#a-maildir-for-each-user).
///
/// It needs the tokio runtime. It is available on Unix only, because its file names contain colons.
///
/// [The guide](crate::guide::responsibility) explains what 250 promises, and [what happens when the disk is
/// full](crate::guide::running#the-disk-is-full).
///
/// ```
/// use smtpd_tower::{Body, Data, Envelope, Request, Session, deliver::Maildir};
/// use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// let maildir = Maildir::new(dir.path().join("mail"));
/// maildir.create().await?;
///
/// let envelope = Envelope::new("a@example.com".parse()?)
///     .with_recipient("b@example.org".parse()?);
/// let data = Data::new(envelope, Body::from("Subject: hi\r\n\r\nHello\r\n"));
/// let reply =
///     maildir.clone().oneshot(Request::new(Session::local(), data)).await?;
/// assert!(reply.is_positive());
///
/// let file = std::fs::read_dir(maildir.path().join("new"))?
///     .next()
///     .ok_or("no message")??;
/// assert_eq!(
///     std::fs::read_to_string(file.path())?,
///     "Return-Path: <a@example.com>\r\nDelivered-To: b@example.org\r\n\
///      Subject: hi\r\n\r\nHello\r\n",
/// );
/// # Ok(()) }
/// ```
///
/// # A maildir for each user
///
/// If the users are known when the server starts, a [`Router`](crate::router::Router) has a route for each, and splits messages:
///
/// ```
/// use smtpd_tower::{Data, deliver::Maildir, router::Router};
///
/// let mut data = Router::<Data>::new();
/// for user in ["alice", "bob"] {
///     let maildir = Maildir::new(format!("/var/mail/{user}"));
///     data = data.recipient(
///         move |path| {
///             path.mailbox().is_some_and(|m| {
///                 m.local_part_unquoted().eq_ignore_ascii_case(user)
///             })
///         },
///         maildir,
///     );
/// }
/// ```
///
/// If they are looked up, a handler reads the message and calls the maildir of each recipient. The name of a directory comes from
/// the lookup, never from the client.
///
/// ```
/// use smtpd_tower::{
///     Body, BodyError, Data, DataReply, Envelope, Reply, Request, Session,
///     address::ForwardPath, deliver::Maildir, handler_fn, phase::PhaseKind,
///     recover,
/// };
/// use tower::ServiceExt;
///
/// # async fn maildir_of(recipient: &ForwardPath) -> Result<Maildir, Reply> {
/// #     let dir = std::env::temp_dir().join(format!("maildir-of-each-{}", std::process::id()));
/// #     Ok(Maildir::new(dir))
/// # }
/// async fn deliver(request: Request<Data>) -> Result<DataReply, BodyError> {
///     let (session, data) = request.into_parts();
///     let (envelope, body) = data.into_parts();
///     let message = body.collect().await?;
///     let mut replies = Vec::new();
///     for recipient in envelope.recipients() {
///         let envelope = Envelope::new(envelope.sender().clone())
///             .with_recipient(recipient.path().clone());
///         let request = Request::new(
///             session.clone(),
///             Data::new(envelope, Body::from(message.clone())),
///         );
///         let reply = match maildir_of(recipient.path()).await {
///             Ok(maildir) => maildir.oneshot(request).await,
///             Err(refusal) => Ok(refusal),
///         };
///         replies.push(reply.unwrap_or_else(|error| {
///             let error = error.into();
///             let reply = recover(&error); // for this recipient alone
///             session.report_fault(PhaseKind::Data, error);
///             reply
///         }));
///     }
///     Ok(DataReply::each(replies))
/// }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let envelope = Envelope::default().with_recipient("a@example.org".parse()?).with_recipient("b@example.org".parse()?);
/// # let data = Data::new(envelope, Body::from("Hello\r\n"));
/// # let reply = handler_fn(deliver).oneshot(Request::new(Session::local(), data)).await?;
/// # let path = maildir_of(&"a@example.org".parse()?).await?.path().to_owned();
/// # let files = std::fs::read_dir(path.join("new"))?.count();
/// # std::fs::remove_dir_all(path)?;
/// # assert!(reply.is_positive());
/// # assert_eq!(files, 2);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Maildir {
    folders: Arc<Folders>,
    lines: HeaderLines,
    newline: Newline,
    permits: DiskPermits,
}

impl Maildir {
    /// Creates a service for the maildir at a path, the directory that holds `tmp`, `new` and `cur`. It does not access the disk.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            folders: Arc::new(Folders::new(path.into())),
            lines: HeaderLines {
                return_path: true,
                delivered_to: true,
            },
            newline: Newline::default(),
            permits: DiskPermits::shared().apart(),
        }
    }

    /// Sets whether a `Return-Path` line is added before each message, as final delivery must (RFC 5321 section 4.4). Default:
    /// true.
    #[must_use]
    pub fn return_path(mut self, on: bool) -> Self {
        self.lines.return_path = on;
        self
    }

    /// Sets whether a `Delivered-To` line for each recipient is added before the message. Default: true.
    #[must_use]
    pub fn delivered_to(mut self, on: bool) -> Self {
        self.lines.delivered_to = on;
        self
    }

    /// Sets the mode of the files, whatever the umask is. Default: 0600, for the owner alone.
    ///
    /// The owner's permissions to read and write are always included.
    ///
    /// ```
    /// use smtpd_tower::deliver::Maildir;
    ///
    /// // An IMAP server that runs as another user of the group reads the messages.
    /// let maildir =
    ///     Maildir::new("/var/mail/shared").file_mode(0o640).folder_mode(0o2770);
    /// ```
    #[must_use]
    pub fn file_mode(mut self, mode: u32) -> Self {
        Arc::make_mut(&mut self.folders).set_file_mode(mode);
        self
    }

    /// Sets the mode of the directories that are created, whatever the umask is. Default: 0700, for the owner alone.
    ///
    /// All permissions of the owner are always included, and so is the set-group-ID bit if the directory above has it: then the
    /// files belong to the group of that directory. Directories that exist keep their mode.
    #[must_use]
    pub fn folder_mode(mut self, mode: u32) -> Self {
        Arc::make_mut(&mut self.folders).set_folder_mode(mode);
        self
    }

    /// Sets whether the name of a file also ends with `,W=` and the size that the message has if each line ends with CRLF, which
    /// Dovecot would otherwise have to compute. Default: false.
    #[must_use]
    pub fn virtual_size(mut self, on: bool) -> Self {
        Arc::make_mut(&mut self.folders).set_virtual_size(on);
        self
    }

    /// Sets how lines end in the files. Default: [`Newline::CrLf`], as they are sent.
    ///
    /// Programs on Unix expect LF, and Courier-IMAP shows wrong sizes otherwise; Dovecot reads both. Whoever verifies a DKIM
    /// signature makes the lines end with CR and LF first (RFC 6376 section 5.3), so signatures stay valid. A message that is
    /// declared as [BINARYMIME](smtpd_core::parameter::BodyType::BinaryMime) is stored as it is, because not every CR and LF in
    /// it is the end of a line (RFC 3030 section 3). With [`virtual_size`](Self::virtual_size), `,W=` is the size with CR and LF.
    ///
    /// ```
    /// use smtpd_tower::deliver::{Maildir, Newline};
    ///
    /// let maildir = Maildir::new("/var/mail/shared").newline(Newline::Lf);
    /// ```
    #[must_use]
    pub fn newline(mut self, newline: Newline) -> Self {
        self.newline = newline;
        self
    }

    /// Sets the limit on how many of its jobs work on the disk at a time. Default: [`DiskPermits::shared`].
    #[must_use]
    pub fn disk_permits(mut self, permits: DiskPermits) -> Self {
        self.permits = permits.apart();
        self
    }

    /// Returns the directory that holds `tmp`, `new` and `cur`.
    pub fn path(&self) -> &Path {
        self.folders.root()
    }

    /// Creates the directories that are missing, and then stores a message as a delivery does and removes it: for a server that
    /// wants to detect a wrong path, a lack of permissions, a full disk, or a `new` on another file system than `tmp` when it
    /// starts, not when mail arrives.
    ///
    /// The name of that message begins with a dot, so readers of the maildir ignore it.
    ///
    /// # Errors
    ///
    /// Returns an error if a directory cannot be created or is not a directory, or if the message cannot be stored or removed.
    pub async fn create(&self) -> Result<(), MaildirError> {
        self.blocking(|folders, _permit| {
            folders.create()?;
            Draft::probe(folders)
        })
        .await
    }

    /// Removes the files in `tmp` that were last written at least `older_than` ago, and returns how many. A crash leaves such
    /// files; deliveries in progress are younger. The usual age is 36 hours, at the start of the server or once a day.
    ///
    /// # Errors
    ///
    /// Returns an error if the directory cannot be read, or a file cannot be removed.
    pub async fn clean_tmp(&self, older_than: Duration) -> Result<usize, MaildirError> {
        self.blocking(move |folders, _permit| folders.clean_tmp(older_than, SystemTime::now()))
            .await
    }

    /// Runs a job in another thread, as soon as there is a permit for it.
    async fn blocking<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Arc<Folders>, DiskPermit) -> Result<T, MaildirError> + Send + 'static,
    ) -> Result<T, MaildirError> {
        let folders = self.folders.clone();
        let done = self
            .permits
            .run_holding(move |permit| job(&folders, permit));
        let done = done.await;
        // The runtime is shutting down, or the job has panicked.
        done.unwrap_or_else(|error| Err(MaildirError::new("work on", self.path(), error)))
    }
}

impl Service<Request<Data>> for Maildir {
    type Response = Reply;
    type Error = MaildirError;
    type Future = MaildirFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), MaildirError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Data>) -> MaildirFuture {
        let lines = self.lines.encode(request.envelope());
        // The name by which the trace header and the log know it, if there is one.
        let known = request.session().transaction().get::<QueueId>();
        let (session, data) = request.into_parts();
        let newlines = Lines::of(data.envelope(), self.newline);
        let body = data.into_body().prepend_header(lines);
        let delivery = Delivery::new(self.clone(), newlines).run(body);
        MaildirFuture(Some(Box::pin(async move {
            match delivery.await {
                Ok(own) => Ok(known.map_or_else(|| Reply::queued(own), Reply::queued)),
                Err(failure) => failure.reply(&session),
            }
        })))
    }
}

/// The future of [`Maildir`].
pub struct MaildirFuture(Option<Delivering>);

type Delivering = Pin<Box<dyn Future<Output = Result<Reply, MaildirError>> + Send>>;

impl Future for MaildirFuture {
    type Output = Result<Reply, MaildirError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Polled after completion, it stays pending like a fused future.
        let Some(delivering) = &mut self.0 else {
            return Poll::Pending;
        };
        let reply = ready!(delivering.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(reply)
    }
}

impl fmt::Debug for MaildirFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MaildirFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, io, os::unix::fs::PermissionsExt};

    use bytes::Bytes;
    use futures_core::Stream;
    use smtpd_core::{envelope::Envelope, reply::Code};
    use tempfile::TempDir;
    use tokio::{runtime, sync::mpsc, task::JoinSet};
    use tokio_test::{assert_pending, task};
    use tower::{BoxError, ServiceExt};

    use super::{
        delivery::{BUFFER, Failure, append},
        *,
    };
    use crate::{
        body::{Body, BodyError},
        reply::{Verdict, recover},
        session::Session,
    };

    /// A maildir in a directory of its own.
    struct Fixture {
        dir: TempDir,
        maildir: Maildir,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let maildir = Maildir::new(dir.path().join("mail"))
                .return_path(false)
                .delivered_to(false);
            Self { dir, maildir }
        }

        fn call(&self, body: Body) -> MaildirFuture {
            let data = Data::new(Envelope::default(), body);
            self.maildir
                .clone()
                .call(Request::new(Session::local(), data))
        }

        async fn code(&self, body: Body) -> u16 {
            self.call(body).await.unwrap().code().as_u16()
        }

        fn files(&self, folder: &str) -> Vec<PathBuf> {
            match fs::read_dir(self.maildir.path().join(folder)) {
                Ok(files) => files.map(|file| file.unwrap().path()).collect(),
                Err(_) => Vec::new(),
            }
        }

        /// Returns what was delivered, after checking that nothing else is there.
        fn delivered(&self) -> Vec<Vec<u8>> {
            assert!(self.files("tmp").is_empty());
            let files = self.files("new").into_iter();
            files.map(|file| fs::read(file).unwrap()).collect()
        }
    }

    struct Pieces(mpsc::Receiver<Result<Bytes, BodyError>>);

    impl Stream for Pieces {
        type Item = Result<Bytes, BodyError>;

        fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            self.0.poll_recv(cx)
        }
    }

    /// A body whose sender can send a chunk only when the one before it has been requested.
    fn chunks() -> (mpsc::Sender<Result<Bytes, BodyError>>, Body) {
        let (sender, receiver) = mpsc::channel(1);
        (sender, Body::new(Pieces(receiver)))
    }

    fn large_chunk() -> Result<Bytes, BodyError> {
        Ok(vec![b'x'; BUFFER].into())
    }

    #[tokio::test]
    async fn bytes_are_stored_as_received() {
        let all: Vec<u8> = (0..=255).collect();
        let large = all.repeat(5 * 4096);
        for message in [&[][..], &all, &large] {
            for size in [251, 4096, BUFFER, usize::MAX] {
                let fixture = Fixture::new();
                let (sender, body) = chunks();
                let answer = tokio::spawn(fixture.call(body));
                for chunk in message.chunks(size) {
                    sender
                        .send(Ok(Bytes::copy_from_slice(chunk)))
                        .await
                        .unwrap();
                }
                drop(sender);
                assert_eq!(answer.await.unwrap().unwrap().code(), Code::OK);
                assert!(fixture.delivered() == [message], "in chunks of {size}");
            }
        }
    }

    #[tokio::test]
    async fn lines_stand_before_what_a_layer_prepends() {
        let fixture = Fixture::new();
        let maildir = fixture.maildir.clone();
        let sender = "\"../../../etc/cron.d/x\"@example.com";
        let recipient = "\"../new/x\"@example.org";
        let envelope =
            Envelope::new(sender.parse().unwrap()).with_recipient(recipient.parse().unwrap());
        let body = Body::from("Subject: hi\r\n").prepend("Received: here\r\n");
        let reply = maildir
            .return_path(true)
            .delivered_to(true)
            .oneshot(Request::new(Session::local(), Data::new(envelope, body)))
            .await
            .unwrap();
        let expected = format!(
            "Return-Path: <{sender}>\r\nDelivered-To: {recipient}\r\n\
             Received: here\r\nSubject: hi\r\n"
        );
        assert_eq!(fixture.delivered(), [expected.as_bytes()]);
        let name = fixture.files("new").remove(0);
        let id = reply.text().strip_prefix("Queued as ").unwrap();
        assert!(name.to_str().unwrap().contains(id));
        // Nothing that the client sends is part of a path.
        assert_eq!(fs::read_dir(fixture.dir.path()).unwrap().count(), 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn concurrent_deliveries_do_not_meet() {
        let fixture = Fixture::new();
        let mut answers = JoinSet::new();
        let sent: BTreeSet<Vec<u8>> = (0..200).map(|n: u32| n.to_string().into()).collect();
        for message in sent.iter().cloned() {
            answers.spawn(fixture.call(message.into()));
        }
        let replies = answers.join_all().await.into_iter();
        let ids: BTreeSet<_> = replies.map(|reply| reply.unwrap().to_string()).collect();
        assert_eq!(ids.len(), 200);
        let delivered = fixture.delivered();
        assert_eq!(delivered.len(), 200);
        assert_eq!(delivered.into_iter().collect::<BTreeSet<_>>(), sent);
    }

    #[tokio::test]
    async fn a_message_that_is_incomplete_leaves_nothing() {
        for (error, code) in [
            (BodyError::Incomplete, 451),
            (BodyError::TooLarge, 552),
            (BodyError::BareNewline, 550),
            (BodyError::NulByte, 554),
            (BodyError::other("filter failed"), 451),
        ] {
            for first in [Ok(Bytes::from_static(b"small")), large_chunk()] {
                let fixture = Fixture::new();
                let (sender, body) = chunks();
                let answer = tokio::spawn(fixture.call(body));
                sender.send(first).await.unwrap();
                sender.send(Err(error.clone())).await.unwrap();
                let reply = answer.await.unwrap().unwrap();
                assert_eq!(reply.code().as_u16(), code);
                assert!(fixture.delivered().is_empty());
            }
        }
    }

    #[tokio::test]
    async fn a_message_is_not_in_new_before_its_end() {
        for delivered in [true, false] {
            let fixture = Fixture::new();
            let (sender, body) = chunks();
            let answer = tokio::spawn(fixture.call(body));
            for chunk in [large_chunk(), Ok("a".into()), Ok("b".into())] {
                sender.send(chunk).await.unwrap();
            }
            let written = fixture.files("tmp");
            assert_eq!(written.len(), 1);
            assert_eq!(written[0].metadata().unwrap().len(), BUFFER as u64);
            assert!(fixture.files("new").is_empty());
            if delivered {
                drop(sender);
                assert!(answer.await.unwrap().unwrap().is_positive());
                assert_eq!(fixture.delivered()[0].len(), BUFFER + 2);
            } else {
                answer.abort();
                assert!(answer.await.unwrap_err().is_cancelled());
                while !fixture.files("tmp").is_empty() {
                    tokio::task::yield_now().await;
                }
                assert!(fixture.delivered().is_empty());
            }
        }
    }

    #[test]
    fn a_future_dropped_while_a_thread_writes_leaves_no_draft() {
        for size in [10, BUFFER] {
            let fixture = Fixture::new();
            let runtime = runtime::Builder::new_current_thread().build().unwrap();
            {
                let _guard = runtime.enter();
                let mut answer = task::spawn(fixture.call(vec![b'x'; size].into()));
                assert_pending!(answer.poll());
            }
            // It waits for the thread.
            drop(runtime);
            // Also if the thread was faster than the drop: nobody has told the client of it.
            assert!(fixture.delivered().is_empty());
        }
    }

    #[test]
    fn a_message_that_nobody_waits_for_is_not_delivered() {
        let fixture = Fixture::new();
        let draft = append(None, b"late", &fixture.maildir.folders).unwrap();
        assert_eq!(fixture.files("tmp").len(), 1);
        draft.arrive(|| false).unwrap_err();
        assert!(fixture.delivered().is_empty());
    }

    #[tokio::test]
    async fn what_cannot_be_stored_is_an_error_and_leaves_nothing() {
        for (file, action) in [
            ("mail", "create"),
            ("mail/tmp", "create"),
            ("mail/new", "rename"),
        ] {
            let fixture = Fixture::new();
            let path = fixture.dir.path().join(file);
            if file != "mail" {
                fixture.maildir.create().await.unwrap();
                fs::remove_dir(&path).unwrap();
            }
            fs::write(&path, "in the way").unwrap();
            let error = fixture.call(Body::from("lost")).await.unwrap_err();
            assert!(error.to_string().starts_with(&format!("cannot {action} ")));
            assert!(fixture.files("tmp").is_empty());
            assert!(fixture.files("new").is_empty());
            let created = fixture.maildir.create().await.unwrap_err();
            assert_eq!(created.path(), path);
            let reply = recover(&BoxError::from(error));
            assert_eq!(reply.to_string(), "451 4.3.0 Local error in processing");
        }
    }

    #[tokio::test]
    async fn a_directory_that_disappears_is_made_again() {
        for folder in ["", "tmp", "new"] {
            let fixture = Fixture::new();
            assert_eq!(fixture.code(Body::from("one")).await, 250);
            fs::remove_dir_all(fixture.maildir.path().join(folder)).unwrap();
            assert_eq!(fixture.code(Body::from("two")).await, 250);
            assert!(fixture.delivered().contains(&b"two".to_vec()), "{folder}");
        }
    }

    /// RFC 3463 section 3.3: X.2.2 is the mailbox's storage, section 3.4: X.3.1 that of the system.
    #[test]
    fn a_users_quota_is_reported_as_a_full_disk_or_neither_to_on_error() {
        const ENOSPC: i32 = 28;
        #[cfg(target_os = "linux")]
        const EDQUOT: i32 = 122;
        #[cfg(not(target_os = "linux"))]
        const EDQUOT: i32 = 69;
        const EACCES: i32 = 13;
        for (number, expected) in [
            (ENOSPC, "452 4.3.1 Insufficient system storage"),
            (EDQUOT, "452 4.2.2 Mailbox full"),
            (EACCES, "451 4.3.0 Local error in processing"),
        ] {
            let error = io::Error::from_raw_os_error(number);
            let error = MaildirError::new("write", Path::new("/secret"), error);
            let answer = Failure::from(error).reply(&Session::local());
            let error = answer.expect_err("a fault").into();
            assert_eq!(recover(&error).to_string(), expected);
            assert_eq!(Verdict::of::<Reply>(&Err(error)), Verdict::Failed);
        }
    }

    /// Not every CR and LF in it is the end of a line.
    #[tokio::test]
    async fn a_binary_message_loses_bytes_that_look_like_line_ends() {
        let fixture = Fixture::new();
        let maildir = fixture.maildir.clone().newline(Newline::Lf);
        let maildir = maildir.return_path(true).virtual_size(true);
        let with_crlf = "Return-Path: <a@example.com>\r\nOne: 1\r\n\r\ntwo\r\n";
        let with_lf = with_crlf.replace('\r', "");
        for (parameters, stored) in [
            ("", &*with_lf),
            ("BODY=8BITMIME", &*with_lf),
            ("BODY=BINARYMIME", with_crlf),
        ] {
            let envelope = Envelope::new("a@example.com".parse().unwrap())
                .with_parameters(parameters.parse().unwrap());
            let (sender, body) = chunks();
            let request = Request::new(Session::local(), Data::new(envelope, body));
            let answer = tokio::spawn(maildir.clone().oneshot(request));
            for chunk in ["One: 1\r", "\n\r\ntwo\r\n"] {
                sender.send(Ok(Bytes::from(chunk))).await.unwrap();
            }
            drop(sender);
            assert!(answer.await.unwrap().unwrap().is_positive());
            let file = fs::read_dir(fixture.dir.path().join("mail/new"))
                .unwrap()
                .next();
            let path = file.unwrap().unwrap().path();
            assert_eq!(fs::read_to_string(&path).unwrap(), stored);
            let sizes = format!(",S={},W={}", stored.len(), with_crlf.len());
            assert!(path.to_str().unwrap().ends_with(&sizes), "{path:?}");
            fs::remove_file(path).unwrap();
        }
    }

    #[tokio::test]
    async fn the_name_of_a_message_tells_its_size() {
        let fixture = Fixture::new();
        let large = [b"Subject: hi\r\n\r\nHello\n".to_vec(), vec![b'x'; BUFFER]].concat();
        let size = large.len();
        fixture.code(large.clone().into()).await;
        let virtual_size = fixture.maildir.clone().virtual_size(true);
        let data = Data::new(Envelope::default(), Body::from(large));
        let request = Request::new(Session::local(), data);
        virtual_size.oneshot(request).await.unwrap();
        let mut names: Vec<_> = fixture
            .files("new")
            .into_iter()
            .map(|path| path.display().to_string())
            .collect();
        names.sort_by_key(String::len);
        assert!(names[0].ends_with(&format!(",S={size}")), "{names:?}");
        let both = format!(",S={size},W={}", size + 1);
        assert!(names[1].ends_with(&both), "{names:?}");
    }

    #[tokio::test]
    async fn a_group_reads_what_it_is_to_read_whatever_the_umask() {
        for (set, expected) in [(None, 0o600), (Some(0o640), 0o640), (Some(0o066), 0o666)] {
            let fixture = Fixture::new();
            let mut maildir = fixture.maildir.clone();
            if let Some(mode) = set {
                maildir = maildir.file_mode(mode);
            }
            let data = Data::new(Envelope::default(), Body::from("Hello"));
            let request = Request::new(Session::local(), data);
            maildir.oneshot(request).await.unwrap();
            let file = fixture.files("new").remove(0);
            let mode = file.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, expected);
        }
    }

    #[tokio::test]
    async fn a_delivery_that_is_polled_after_its_end_is_no_panic_and_no_second_message() {
        let fixture = Fixture::new();
        let mut delivery = fixture.call(Body::from("once"));
        assert!((&mut delivery).await.unwrap().is_positive());
        let mut delivery = task::spawn(delivery);
        assert_pending!(delivery.poll());
        assert_eq!(fixture.delivered(), [b"once"]);
    }
}
