//! Who decides on what: a service for each phase, and the layers around it.

use std::{path::Path, time::SystemTime};

use smtpd_tower::{
    Connect, Data, Helo, Mail, Pipeline, Profile, Rcpt, Reply, Request,
    deliver::{Discard, Maildir},
    handler_fn,
    layer::{
        CondLayer, DistinctRecipientsLayer, DomainFilterLayer, FreeSpaceLayer, GreylistLayer,
        MetricsLayer, OwnSenderLayer, ReceivedLayer, SubmissionFieldsLayer,
    },
    parameter::HoldUntil,
    service::BoxPhaseService,
};
use tower::ServiceBuilder;

use crate::{
    clients::Clients,
    message_log::MessageLogLayer,
    options::Options,
    recipients::Recipients,
    reload::clean_tmp,
    served::{Parts, Purpose},
    users::NAMES,
    with_causes,
};

/// Who decides on what. AUTH is not offered where nobody answers it.
pub(crate) fn new(
    options: &Options,
    parts: &Parts,
    clients: &Clients,
    maildir: Option<Maildir>,
    space: Option<FreeSpaceLayer>,
) -> Pipeline {
    let anywhere = !options.domain.is_empty();
    let submission = options.has_submission();

    // Sessions, messages and recipients are counted apart, each in a table of its own.
    let connect = ServiceBuilder::new()
        .option_layer(clients.sessions.layer())
        .option_layer(clients.at_a_time.layer())
        .option_layer(clients.names())
        .service(handler_fn(move |request| welcome(request, anywhere)));
    let mail = ServiceBuilder::new()
        .option_layer(clients.messages.layer())
        .option_layer(space.clone())
        .option_layer(submission.then(|| CondLayer::new(is_of_user, own_sender(options))))
        .service(handler_fn(accept));
    let greylist = clients.greylist().map(GreylistLayer::into_rcpt_and_data);
    let (greylist_rcpt, greylist_data) = greylist.unzip();
    let rcpt = rcpt(options, parts, clients, greylist_rcpt);
    let data = ServiceBuilder::new()
        .option_layer(tracing::enabled!(tracing::Level::INFO).then_some(MessageLogLayer))
        .option_layer(space)
        .option_layer(greylist_data)
        .layer(DistinctRecipientsLayer::new())
        .option_layer(submission.then(|| CondLayer::new(is_of_user, SubmissionFieldsLayer::new())))
        .service(store(maildir));

    let pipeline = Pipeline::new()
        .connect(connect)
        .helo(handler_fn(any_name))
        .mail(mail)
        .rcpt(rcpt)
        .data(data);
    let pipeline = match parts.users.clone() {
        Some(users) => pipeline.auth(handler_fn(move |request| users.clone().login(request))),
        None => pipeline,
    };
    let pipeline = match clients.tarpit() {
        Some(tarpit) => pipeline.layer(tarpit),
        None => pipeline,
    };
    match options.has_http() {
        true => pipeline.layer(MetricsLayer::new()),
        false => pipeline,
    }
}

/// Recipients: strangers write to the domains of the options, and nobody to an address there that the list does not have.
fn rcpt(
    options: &Options,
    parts: &Parts,
    clients: &Clients,
    greylist: Option<GreylistLayer>,
) -> BoxPhaseService<Rcpt> {
    let domains = options.domains();
    let filter = DomainFilterLayer::new(domains.clone());
    let is_here = move |request: &Request<Rcpt>| {
        let mailbox = request.recipient().mailbox();
        mailbox.is_none_or(|mailbox| domains.contains(mailbox.domain()))
    };
    let list = parts.recipients.as_ref().map(Recipients::layer);
    let filter = (!options.domain.is_empty()).then(|| CondLayer::new(is_of_stranger, filter));
    BoxPhaseService::new(
        ServiceBuilder::new()
            .option_layer(clients.recipients.layer())
            .option_layer(filter)
            .option_layer(list.map(|list| CondLayer::new(is_here, list)))
            .option_layer(greylist)
            .service(handler_fn(async |_: Request<Rcpt>| {})),
    )
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
        _ => OwnSenderLayer::in_domains(options.domains()),
    }
    .address_rules(NAMES)
}

/// Where messages go.
fn store(maildir: Option<Maildir>) -> BoxPhaseService<Data> {
    match maildir {
        None => BoxPhaseService::new(Discard),
        Some(maildir) => BoxPhaseService::new(
            ServiceBuilder::new()
                .layer(ReceivedLayer::new())
                .service(maildir),
        ),
    }
}

/// Makes sure that messages can be stored, before mail comes.
///
/// # Errors
/// Fails with the option and what the system says.
pub(crate) async fn prepare(
    maildir: &Maildir,
    options: &Options,
    purpose: Purpose,
) -> Result<(), String> {
    let place = options.given.place("maildir");
    let named = |error: &dyn std::error::Error| format!("{place}: {}", with_causes(error));
    if purpose == Purpose::Check {
        // Nothing is created: whoever checks is perhaps not the user that runs the server, and must own it.
        let parts = ["tmp", "new", "cur"].map(|part| maildir.path().join(part));
        let wrong = parts.iter().find_map(|part| can_be_made(part).err());
        return wrong.map_or(Ok(()), |error| Err(format!("{place}: {error}")));
    }
    if let Some(parent) = maildir.path().parent() {
        let made = tokio::fs::create_dir_all(parent).await;
        made.map_err(|error| format!("{place}: {}: {error}", parent.display()))?;
    }
    maildir.create().await.map_err(|error| named(&error))?;
    if purpose == Purpose::Start {
        // What a crash has left is of no use to anybody after a day and a half.
        clean_tmp(Some(maildir)).await;
    }
    Ok(())
}

fn can_be_made(path: &Path) -> Result<(), String> {
    let mut existing = path.ancestors().filter(|path| path.exists());
    match existing.next() {
        Some(path) if !path.is_dir() => Err(format!("{}: this is not a directory", path.display())),
        _ => Ok(()),
    }
}
