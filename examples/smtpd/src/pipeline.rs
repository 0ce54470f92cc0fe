//! Who decides on what: a service for each phase, and the layers around it.

use std::time::{Duration, SystemTime};

use smtpd_tower::{
    BoxError, Connect, Data, Helo, Mail, Pipeline, Profile, Rcpt, Reply, Request,
    deliver::{Discard, Maildir},
    domains::Domains,
    handler_fn,
    layer::{
        CondLayer, DistinctRecipientsLayer, DomainFilterLayer, FreeSpaceLayer, OwnSenderLayer,
        RateLimitLayer, ReceivedLayer, SubmissionFieldsLayer,
    },
    parameter::HoldUntil,
    service::BoxPhaseService,
};
use tower::ServiceBuilder;

use crate::{
    disk, mechanisms,
    message_log::MessageLogLayer,
    options::Options,
    users::{NAMES, Users},
};

/// Who decides on what. AUTH is not offered where nobody answers it.
pub(crate) async fn new(options: &Options, users: Option<Users>) -> Result<Pipeline, BoxError> {
    // Sessions and messages are counted apart, each in a table of its own.
    let rate_limit = || options.rate.map(RateLimitLayer::per_ip);
    let domains = || Domains::from_iter(options.domain.iter().cloned());
    let anywhere = !options.domain.is_empty();
    let submission = options.has_submission();
    let space = free_space(options);

    let connect = ServiceBuilder::new()
        .option_layer(rate_limit())
        .service(handler_fn(move |request| welcome(request, anywhere)));
    let mail = ServiceBuilder::new()
        .option_layer(rate_limit())
        .option_layer(space.clone())
        .option_layer(submission.then(|| CondLayer::new(is_of_user, own_sender(options))))
        .service(handler_fn(accept));
    let rcpt = ServiceBuilder::new()
        .option_layer(
            anywhere.then(|| CondLayer::new(is_of_stranger, DomainFilterLayer::new(domains()))),
        )
        .service(handler_fn(async |_: Request<Rcpt>| {}));
    let data = ServiceBuilder::new()
        .option_layer(tracing::enabled!(tracing::Level::INFO).then_some(MessageLogLayer))
        .option_layer(space)
        .layer(DistinctRecipientsLayer::new())
        .option_layer(submission.then(|| CondLayer::new(is_of_user, SubmissionFieldsLayer::new())))
        .service(store(options).await?);

    let pipeline = Pipeline::new()
        .connect(connect)
        .helo(handler_fn(any_name))
        .mail(mail)
        .rcpt(rcpt)
        .data(data);
    let Some(users) = users else {
        return Ok(pipeline);
    };
    for warning in users.warnings(&mechanisms::offered(options)) {
        tracing::warn!("{warning}");
    }
    Ok(pipeline.auth(handler_fn(move |request| users.clone().login(request))))
}

fn is_of_user<P>(request: &Request<P>) -> bool {
    let profile = request.session().profile();
    profile.is_some_and(Profile::is_submission)
}

fn is_of_stranger<P>(request: &Request<P>) -> bool {
    !is_of_user(request)
}

/// Greets clients of this machine, and others only where they have to authenticate, or where it is said for which domains
/// mail is taken.
async fn welcome(request: Request<Connect>, anywhere: bool) -> Result<(), Reply> {
    if anywhere || is_of_user(&request) || request.session().client_addr().is_local() {
        Ok(())
    } else {
        Err(Reply::rejected("No mail from other machines here"))
    }
}

/// Takes any name that a client gives itself. `HeloCheckLayer` around it would refuse forged ones.
async fn any_name(_: Request<Helo>) {}

/// Takes any sender. Only who has a clock can tell that a message is to be held until a time that has passed.
async fn accept(request: Request<Mail>) -> Result<(), Reply> {
    HoldUntil::resolve(request.parameters(), SystemTime::now()).map(drop)
}

/// Users send under their own name, at any domain where none is said.
fn own_sender(options: &Options) -> OwnSenderLayer {
    match &*options.domain {
        [] => OwnSenderLayer::in_any_domain(),
        domains => OwnSenderLayer::in_domains(Domains::from_iter(domains.iter().cloned())),
    }
    .address_rules(NAMES)
}

/// What is discarded needs no space.
fn free_space(options: &Options) -> Option<FreeSpaceLayer> {
    let is_kept = options.discard != Some(true);
    is_kept.then(|| disk::free_space(options.maildir()))
}

/// Where messages go.
async fn store(options: &Options) -> Result<BoxPhaseService<Data>, BoxError> {
    if options.discard == Some(true) {
        return Ok(BoxPhaseService::new(Discard));
    }
    let maildir = Maildir::new(options.maildir());
    if let Some(parent) = maildir.path().parent() {
        tokio::fs::create_dir_all(parent).await?;
    }
    maildir.create().await?;
    // What a crash has left is of no use to anybody after a day and a half.
    maildir.clean_tmp(Duration::from_secs(36 * 3600)).await?;
    Ok(BoxPhaseService::new(
        ServiceBuilder::new()
            .layer(ReceivedLayer::new())
            .service(maildir),
    ))
}
