//! Layers, which wrap the services of a pipeline. Layers that only accept or reject requests are rules ([`Admit`]), and their
//! service is a [`Gate`], or [`AdmitLater`] and [`LateGate`] if they have to ask somebody first.
//!
//! | layer | phases | its own reply |
//! |---|---|---|
//! | [`AllowClientsLayer`] | any, usually connect | 554 5.7.1 to clients outside of the given networks |
//! | [`CatchPanicLayer`] | any | 451 4.3.0 if the service panics |
//! | [`ConcurrencyLayer`] | any | 451 4.7.1 to clients, users or other keys with too many requests in flight |
//! | [`CondLayer`] | any | none: applies another layer to some requests only |
//! | [`DenyClientsLayer`] | any, usually connect | 554 5.7.1 to clients of the given networks |
//! | [`DenySendersLayer`] | MAIL | 550 5.7.1 to the senders of a list |
//! | [`DistinctRecipientsLayer`] | DATA | none: drops recipients that occur twice |
//! | [`DomainFilterLayer`] | RCPT | 550 5.7.1 to recipients of other domains |
//! | [`FreeSpaceLayer`] | MAIL, DATA | 452 4.3.1 while a disk is nearly full |
//! | [`from_fn`], [`from_fn_with`] | any, one at a time | whatever an async function returns |
//! | [`GreylistLayer`] | RCPT, and DATA by [`GreylistLayer::into_rcpt_and_data`] | 450 4.7.1 to strangers, until they try again (RFC 6647) |
//! | [`HeloCheckLayer`] | HELO, MAIL | 550 5.7.1 to forged names, such as `localhost` |
//! | [`HopLimitLayer`] | DATA | 554 5.4.6 to messages with too many `Received` fields (RFC 5321 section 6.3) |
//! | [`MapBodyLayer`] | DATA | none: replaces the body |
//! | [`MapReplyLayer`] | any | none: changes replies |
//! | [`MaxRecipientsLayer`] | RCPT | 452 4.5.3 to recipients over a limit per message |
//! | `MetricsLayer` (feature `metrics`) | any | none: measures how long services take, and what they decide |
//! | [`OwnSenderLayer`] | MAIL | 550 5.7.1 to senders that the user does not own, 530 5.7.0 before AUTH |
//! | [`RateLimitLayer`] | any | 451 4.7.1 to clients, users or other keys over their rate |
//! | [`ReceivedLayer`] | DATA | none: adds the trace header to the message, and a [`QueueId`] to the transaction |
//! | [`RecipientsLayer`] | RCPT | 550 5.1.1 to recipients that are not in the list |
//! | [`RequireAuthLayer`] | MAIL, RCPT, DATA | 530 5.7.0 before AUTH |
//! | [`RequireTlsLayer`] | AUTH, MAIL, RCPT, DATA | 530 5.7.0 before STARTTLS |
//! | [`ReverseDnsLayer`] | connect | none: looks up the [`ReverseName`] of the client |
//! | [`ScoreGateLayer`] | any, usually DATA | 550 5.7.1 if the [`Score`] is too high |
//! | [`ScoreLayer`] | any | none: adds points to the [`Score`] of a session or message |
//! | [`SessionsPerIpLayer`] | connect | 421 4.7.0 to clients with too many sessions |
//! | [`SizeLimitLayer`] | MAIL, DATA | 552 5.3.4 to messages that are too large |
//! | `SpoolLayer` (feature `spool`) | DATA | the reply of a [`BodyError`](crate::body::BodyError): receives the whole message before it calls the service |
//! | [`SubmissionFieldsLayer`] | DATA | none: adds the date and the id that a message lacks |
//! | [`TarpitLayer`] | any | none: delays replies that reject |
//! | [`TeeLayer`] | DATA | 451 4.3.0, or 452 4.3.1 if the disk is full: writes a copy of the message to a sink |
//! | [`TraceLayer`] | any | none: logs by `tracing` |
//!
//! None of them has errors of its own: a refusal is a response. Most keep the error type of the service. It becomes
//! [`BoxError`](crate::BoxError) where a layer looks for a refusal in an error ([`MapReplyLayer`], [`TarpitLayer`],
//! [`TraceLayer`]), and where two error types meet ([`CondLayer`], [`from_fn`]). tower's own layers fit beside them; their errors
//! become replies in [`recover`](crate::reply::recover()). At connect, a 4yz reply closes the connection with 421; to AUTH, it is
//! 454 4.7.0.
//!
//! The lists of clients, domains, senders and recipients can change while the server runs: see [`reload`](crate::reload).
//!
//! Constructors are infallible, unless they parse text. Setters are named after what they set. Clones of a layer, and all
//! services that they make, share what it counts in. [`Exempt`] lists your own clients once, for all layers that exempt
//! clients.
//!
//! The first layer is the outermost, as everywhere in tower: it sees the request first and the response last. The guide explains
//! [the order of layers](crate::guide::order_of_layers), [what each layer looks at, keeps and costs, and what it goes
//! within](crate::guide::layers_in_company), [tower's own layers](crate::guide::tower_with_smtp) with their traps,
//! and [what layers cost](crate::guide::what_a_message_costs#what-layers-add).
//!
//! ```
//! use std::net::IpAddr;
//!
//! use smtpd_tower::{
//!     Connect, Data, Mail, Pipeline, Rcpt, Request, handler_fn,
//!     layer::{
//!         DomainFilterLayer, RateLimitLayer, ReceivedLayer, RequireTlsLayer,
//!         ReverseDnsLayer, TraceLayer,
//!     },
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
//! let data =
//!     ServiceBuilder::new().layer(ReceivedLayer::new()).service(handler_fn(
//!         async |request: Request<Data>| request.into_body().discard().await,
//!     ));
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
mod exempt;
mod limit;
mod message;

pub use self::access::{
    AllowClientsLayer, ByFunction, ByName, DenyClientsLayer, DenySendersLayer, DomainFilterLayer,
    Greylist, GreylistClient, GreylistData, GreylistDataLayer, GreylistFileError,
    GreylistFileErrorKind, GreylistFuture, GreylistKey, GreylistLayer, GreylistPolicy,
    GreylistStore, GreylistVerdict, HeloCheckLayer, MemoryGreylist, OwnSenderLayer,
    RecipientsLayer, RequireAuthLayer, RequireTlsLayer, ReverseDns, ReverseDnsFuture,
    ReverseDnsLayer, ScoreGate, ScoreGateLayer, ScoreLayer, Scored,
};
pub use self::compose::{
    Admit, AdmitLater, AnswerFuture, CatchPanic, CatchPanicFuture, CatchPanicLayer, Cond,
    CondFuture, CondLayer, FromFn, FromFnFuture, FromFnLayer, FromFnWith, FromFnWithLayer, Gate,
    LateGate, LateGateFuture, MapReply, MapReplyFuture, MapReplyLayer, Next, Trace, TraceFuture,
    TraceLayer, from_fn, from_fn_with,
};
#[cfg(feature = "metrics")]
pub use self::compose::{Metrics, MetricsFuture, MetricsLayer};
pub use self::exempt::Exempt;
pub use self::limit::{
    AtLimit, Concurrency, ConcurrencyFuture, ConcurrencyLayer, Counted, FindKey, FixedSize,
    FreeSpace, FreeSpaceLayer, LimitKey, MaxRecipientsLayer, PerIdentity, PerIp, PerRequest,
    PerSession, RateLimit, RateLimitFuture, RateLimitLayer, SessionsPerIpLayer, SizeLimit,
    SizeLimitFuture, SizeLimitLayer, SizeRule, Tarpit, TarpitFuture, TarpitLayer, Weigh, WeighKib,
    WeighOne, WeighRecipients,
};
pub use self::message::{
    DistinctRecipients, DistinctRecipientsFuture, DistinctRecipientsLayer, HopLimit,
    HopLimitFuture, HopLimitLayer, MapBody, MapBodyLayer, Received, ReceivedLayer,
    SubmissionFields, SubmissionFieldsLayer, Tee, TeeLayer,
};
#[cfg(feature = "spool")]
pub use self::message::{Spool, SpoolFuture, SpoolLayer};
pub use crate::session::{QueueId, ReverseName, Score};
