//! Layers, which wrap the services of a pipeline. Layers that only accept or reject requests are rules ([`Admit`]), and their
//! service is a [`Gate`].
//!
//! | layer | phases | its own reply |
//! |---|---|---|
//! | [`AllowClientsLayer`] | any, usually connect | 554 5.7.1 to clients outside of the given networks |
//! | [`CatchPanicLayer`] | any | 451 4.3.0 if the service panics |
//! | [`ConcurrencyLayer`] | any | 451 4.7.1 to clients, users or other keys with too many requests in flight |
//! | [`CondLayer`] | any | none: applies another layer to some requests only |
//! | [`DenyClientsLayer`] | any, usually connect | 554 5.7.1 to clients of the given networks |
//! | [`DomainFilterLayer`] | RCPT | 550 5.7.1 to recipients of other domains |
//! | [`from_fn`], [`from_fn_with`] | any, one at a time | whatever an async function returns |
//! | [`GreylistLayer`] | RCPT | 450 4.7.1 to strangers, until they try again (RFC 6647) |
//! | [`HeloCheckLayer`] | HELO, MAIL | 550 5.7.1 to forged names |
//! | [`HopLimitLayer`] | DATA | 554 5.4.6 to messages with too many `Received` fields (RFC 5321 section 6.3) |
//! | [`MapBodyLayer`] | DATA | none: replaces the body |
//! | [`MapReplyLayer`] | any | none: changes replies |
//! | [`MaxRecipientsLayer`] | RCPT | 452 4.5.3 to recipients over a limit per message |
//! | [`OwnSenderLayer`] | MAIL | 550 5.7.1 to senders that the user does not own |
//! | [`RateLimitLayer`] | any | 451 4.7.1 to clients, users or other keys over their rate |
//! | [`ReceivedLayer`] | DATA | none: adds the trace header to the message, and a [`QueueId`] to the transaction |
//! | [`RequireAuthLayer`] | MAIL, RCPT, DATA | 530 5.7.0 before AUTH |
//! | [`RequireTlsLayer`] | AUTH, MAIL, RCPT, DATA | 530 5.7.0 before STARTTLS |
//! | [`ReverseDnsLayer`] | connect | none: looks up the [`ReverseName`] of the client |
//! | [`ScoreGateLayer`] | DATA, RCPT | 550 5.7.1 if the [`Score`] is too high |
//! | [`ScoreLayer`] | any | none: adds points to the [`Score`] of a session or message |
//! | [`SessionsPerIpLayer`] | connect | 421 4.7.0 to clients with too many sessions |
//! | [`SizeLimitLayer`] | DATA | 552 5.3.4 to messages that are too large |
//! | `SpoolLayer` (feature `spool`) | DATA | the reply of a [`BodyError`](crate::body::BodyError): receives the whole message before it calls the service |
//! | [`SubmissionFieldsLayer`] | DATA | none: adds the date and the id that a message lacks |
//! | [`TarpitLayer`] | any | none: delays replies that refuse |
//! | [`TeeLayer`] | DATA | none: writes a copy of the message to a sink |
//! | [`TraceLayer`] | any | none: logs by `tracing` |
//!
//! None of them has errors of its own: a refusal is a response. Nor do they change the error type of the service, except
//! [`CondLayer`] and [`from_fn`], where two error types may meet. tower's own layers fit beside them; their errors become replies
//! in [`recover`](crate::reply::recover()). At connect, a 4yz reply closes the connection with 421; to AUTH, a local error
//! (451 4.3.z) is 454 4.7.0.
//!
//! Constructors are infallible, unless they parse text. Setters are named after what they set. Clones of a layer, and all
//! services that they make, share what it counts in.
//!
//! The first layer is the outermost, as everywhere in tower: it sees the request first and the response last.
//!
//! ```
//! use std::net::IpAddr;
//!
//! use smtpd_tower::{
//!     Connect, Data, Mail, Pipeline, Rcpt, Request, handler_fn,
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
//!     .layer(DomainFilterLayer::parse(["example.org"])?)
//!     .service(handler_fn(async |_: Request<Rcpt>| {}));
//! let data = ServiceBuilder::new()
//!     .layer(ReceivedLayer::new())
//!     .service(handler_fn(async |request: Request<Data>| request.into_body().discard().await));
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
    CondLayer, FromFn, FromFnFuture, FromFnLayer, FromFnWith, FromFnWithLayer, Gate, MapReply,
    MapReplyFuture, MapReplyLayer, Next, Trace, TraceFuture, TraceLayer, from_fn, from_fn_with,
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
