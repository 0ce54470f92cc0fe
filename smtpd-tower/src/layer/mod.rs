//! Layers: what stands around the services of a pipeline. One file holds a layer, its service and its future. Those that
//! only let requests pass or refuse them are rules ([`Admit`]), whose service is a [`Gate`].
//!
//! | layer | phases | what it answers by itself |
//! |---|---|---|
//! | [`DomainFilterLayer`] | RCPT | 550 5.7.1 to recipients of other domains |
//! | [`GreylistLayer`] | RCPT | 450 4.7.1 to strangers, until they try again (RFC 6647) |
//! | [`MaxRecipientsLayer`] | RCPT | 452 4.5.3 to recipients over a number per message |
//! | [`OwnSenderLayer`] | MAIL | 550 5.7.1 to users who send under the address of another |
//! | [`RateLimitLayer`] | any | 451 4.7.1 to clients, users or other keys over their rate |
//! | [`RequireAuthLayer`] | MAIL, RCPT, DATA | 530 5.7.0 before AUTH |
//! | [`RequireTlsLayer`] | AUTH, MAIL, RCPT, DATA | 530 5.7.0 before STARTTLS |
//! | [`ReverseDnsLayer`] | connect | nothing: it looks up the [`ReverseName`] of the client |
//! | [`ScoreLayer`] | any | nothing: it adds points to the [`Score`] of a connection or message |
//! | [`ScoreGateLayer`] | DATA, RCPT | 550 5.7.1 to those with too high a [`Score`] |
//! | [`TarpitLayer`] | any | nothing: it delays what the service refuses |
//! | [`ReceivedLayer`] | DATA | nothing: it puts the trace header before the message, and names it by a [`QueueId`] |
//! | [`SubmissionFieldsLayer`] | DATA | nothing: it adds the date and the id that a message lacks |
//! | [`MapBodyLayer`] | DATA | nothing: it gives the service another body |
//! | [`TeeLayer`] | DATA | nothing: it writes a copy of the message to a sink |
//! | `SpoolLayer` (feature `spool`) | DATA | the reply of a [`BodyError`](crate::body::BodyError): it takes the whole message before the service is asked |
//! | [`TraceLayer`] | any | nothing: it logs by `tracing` |
//! | [`AllowClientsLayer`] | any, best connect | 554 5.7.1 to clients outside of the given networks |
//! | [`CatchPanicLayer`] | any | 451 4.3.0 where the service panics |
//! | [`ConcurrencyLayer`] | any | 451 4.7.1 to clients or identities with too many requests in flight |
//! | [`CondLayer`] | any | nothing: it puts another layer around some requests only |
//! | [`DenyClientsLayer`] | any, best connect | 554 5.7.1 to clients of the given networks |
//! | [`from_fn`] | any, one at a time | whatever an async function says |
//! | [`HeloCheckLayer`] | HELO, MAIL | 550 5.7.1 to forged names |
//! | [`HopLimitLayer`] | DATA | 554 5.4.6 to messages with too many `Received` fields (RFC 5321 section 6.3) |
//! | [`MapReplyLayer`] | any | nothing: it changes replies |
//! | [`SessionsPerIpLayer`] | connect | 421 4.7.0 to clients with too many sessions |
//! | [`SizeLimitLayer`] | DATA | 552 5.3.4 to messages that are too large |
//!
//! None of them makes errors of its own: what a layer has to say to the client is a response. Nor do they change the type
//! of the service's errors, but for [`CondLayer`] and [`from_fn`], where two kinds of errors may meet. tower's own layers
//! fit beside them; what those say by errors becomes a reply in [`recover`](crate::reply::recover()). At connect a transient
//! refusal closes the connection with 421, and a local error (451 4.3.z) is 454 4.7.0 to AUTH.
//!
//! The first layer is the outermost, as everywhere in tower: it sees the request first and the response last.
//!
//! ```
//! use std::net::IpAddr;
//!
//! use smtpd_tower::{
//!     Connect, Data, Mail, Pipeline, Rcpt, Reply, Request, handler_fn,
//!     layer::{DomainFilterLayer, RateLimitLayer, ReceivedLayer, RequireTlsLayer, ReverseDnsLayer, TraceLayer},
//!     limiter::Rate,
//! };
//! use tower::ServiceBuilder;
//!
//! async fn resolve(_: IpAddr) -> Option<String> {
//!     None // a query to the DNS
//! }
//!
//! let per_client = RateLimitLayer::per_ip(Rate::per_minute(100)?);
//! let connect = ServiceBuilder::new()
//!     .layer(ReverseDnsLayer::new(resolve))
//!     .service(handler_fn(async |_: Request<Connect>| {}));
//! let mail = ServiceBuilder::new()
//!     .layer(RequireTlsLayer::new())
//!     .layer(per_client.clone())
//!     .service(handler_fn(async |_: Request<Mail>| {}));
//! let rcpt = ServiceBuilder::new()
//!     .layer(per_client) // the same table: MAIL and RCPT count together
//!     .layer(DomainFilterLayer::new(["example.org"]))
//!     .service(handler_fn(async |_: Request<Rcpt>| {}));
//! let data = ServiceBuilder::new()
//!     .layer(ReceivedLayer::new())
//!     .service(handler_fn(async |_: Request<Data>| Reply::ok("Dropped")));
//! let pipeline = Pipeline::new()
//!     .connect(connect)
//!     .mail(mail)
//!     .rcpt(rcpt)
//!     .data(data)
//!     .layer(TraceLayer::new());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod access;
mod compose;
mod limit;
mod message;

pub use self::access::{
    AllowClientsLayer, DenyClientsLayer, DomainFilterLayer, Greylist, GreylistFuture, GreylistKey,
    GreylistLayer, GreylistPolicy, GreylistStore, GreylistVerdict, HeloCheckLayer, MemoryGreylist,
    OwnSenderLayer, RequireAuthLayer, RequireTlsLayer, ReverseDns, ReverseDnsFuture,
    ReverseDnsLayer, ScoreGateLayer, ScoreLayer, Scored,
};
pub use self::compose::{
    Admit, AnswerFuture, CatchPanic, CatchPanicFuture, CatchPanicLayer, Cond, CondFuture,
    CondLayer, FromFn, FromFnFuture, FromFnLayer, Gate, MapReply, MapReplyFuture, MapReplyLayer,
    Next, Trace, TraceFuture, TraceLayer, from_fn,
};
pub use self::limit::{
    Concurrency, ConcurrencyFuture, ConcurrencyLayer, LimitKey, MaxRecipientsLayer, PerIdentity,
    PerIp, PerSession, RateLimitLayer, SessionsPerIpLayer, SizeLimit, SizeLimitFuture,
    SizeLimitLayer, Tarpit, TarpitFuture, TarpitLayer,
};
pub use self::message::{
    HopLimit, HopLimitFuture, HopLimitLayer, MapBody, MapBodyLayer, Received, ReceivedLayer,
    SubmissionFields, SubmissionFieldsLayer, Tee, TeeLayer,
};
#[cfg(feature = "spool")]
pub use self::message::{Spool, SpoolFuture, SpoolLayer};
pub use crate::session::{QueueId, ReverseName, Score};
