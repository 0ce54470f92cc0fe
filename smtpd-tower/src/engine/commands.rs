//! The service call of each command, and what follows from its answer.

use std::task::{Context, Poll, ready};

use smtpd_core::{
    connection::{
        Ask, AuthRequest, CommandLine, Deferred, MailCommand, RcptCommand, ask_kind as kind,
    },
    reply::Reply,
};
use tokio::time::Instant;

use super::{
    ask::{Call, Outcome, resolve},
    derive::authenticate,
    updates,
    work::{After, Asking, Desk, Panic, Polled},
};
use crate::{
    phase::{Auth, Command, Connect, Deadline, Helo, Mail, Phase, Rcpt, Request},
    phase_kind::PhaseKind,
    reply::Verdict,
    service::{BoxPhaseService, Pipeline},
    session::Session,
};

/// A call of the service of one phase.
struct Pending<P: Phase, K, F> {
    call: Call<P>,
    /// The question that the call answers, and what to do with the answer.
    answer: Option<(Deferred<K>, F)>,
}

impl<P, K, F> Asking for Pending<P, K, F>
where
    P: Phase,
    F: FnOnce(Ask<'_, K>, &Session, P::Response) -> After + Send,
{
    fn poll(&mut self, cx: &mut Context<'_>, desk: Desk<'_>) -> Poll<After> {
        let waited = self.call.is_waiting();
        let polled = self.call.poll(cx);
        if waited
            && !self.call.is_waiting()
            && let Some((question, _)) = &self.answer
        {
            desk.pace.catch_up(desk.connection);
            desk.connection.begin(question);
        }
        let result = ready!(polled);
        let Some((question, pass_on)) = self.answer.take() else {
            return Poll::Ready(After::Done);
        };
        let answer = resolve::<P>(desk.session, result);
        // `None` if the connection has already answered by itself.
        let ask = desk.connection.resume(question);
        Poll::Ready(ask.map_or(After::Done, |ask| pass_on(ask, desk.session, answer)))
    }

    fn phase(&self) -> PhaseKind {
        P::KIND
    }
}

pub(super) fn connect(
    cx: &mut Context<'_>,
    pipeline: &Pipeline,
    session: &mut Session,
    ask: Ask<'_, kind::Connect>,
) -> After {
    updates::heard(session, ask.connection());
    greet(cx, pipeline, session, ask)
}

/// Asks whether the client is greeted: one that has connected, or whom XCLIENT has named.
pub(super) fn greet(
    cx: &mut Context<'_>,
    pipeline: &Pipeline,
    session: &Session,
    ask: Ask<'_, kind::Connect>,
) -> After {
    let service = pipeline.connect.as_ref();
    call(cx, service, session, Connect::new(), ask, reply)
}

pub(super) fn start_tls(ask: Ask<'_, kind::StartTls>) -> After {
    ask.accept();
    After::Done
}

/// Refuses without asking a service.
pub(super) fn refuse<K>(ask: Ask<'_, K>, reply: Reply) -> After {
    ask.refuse(reply);
    After::Done
}

pub(super) fn helo(
    cx: &mut Context<'_>,
    pipeline: &Pipeline,
    session: &mut Session,
    helo: smtpd_core::connection::Helo,
    ask: Ask<'_, kind::Helo>,
) -> After {
    updates::heard(session, ask.connection());
    let service = pipeline.helo.as_ref();
    call(cx, service, session, Helo::of(helo), ask, greeted)
}

pub(super) fn auth(
    cx: &mut Context<'_>,
    pipeline: &Pipeline,
    session: &Session,
    request: AuthRequest,
    ask: Ask<'_, kind::Auth>,
) -> After {
    let credentials = request.credentials().clone();
    let service = pipeline.auth.as_ref();
    let failures = ask.connection().auth_failures();
    call(cx, service, session, Auth::of(request, failures), ask, {
        move |ask: Ask<'_, kind::Auth>, session: &Session, outcome| {
            authenticate(ask, session, &credentials, outcome)
        }
    })
}

pub(super) fn mail(
    cx: &mut Context<'_>,
    pipeline: &Pipeline,
    session: &Session,
    mail: MailCommand,
    ask: Ask<'_, kind::Mail>,
) -> After {
    if let Err(reply) = session.memory().admit_message() {
        ask.refuse(reply);
        return After::Done;
    }
    let service = pipeline.mail.as_ref();
    call(cx, service, session, Mail::of(mail), ask, reply)
}

pub(super) fn rcpt(
    cx: &mut Context<'_>,
    pipeline: &Pipeline,
    session: &Session,
    rcpt: RcptCommand,
    ask: Ask<'_, kind::Rcpt>,
) -> After {
    let envelope = ask.connection().envelope().cloned().unwrap_or_default();
    let service = pipeline.rcpt.as_ref();
    call(
        cx,
        service,
        session,
        Rcpt::of(rcpt, envelope),
        ask,
        recipient,
    )
}

pub(super) fn command(
    cx: &mut Context<'_>,
    pipeline: &Pipeline,
    session: &Session,
    line: CommandLine,
    ask: Ask<'_, kind::Command>,
) -> After {
    let service = pipeline.command.as_ref();
    call(cx, service, session, Command::of(line), ask, reply)
}

#[inline]
fn reply<K: kind::OneReply>(ask: Ask<'_, K>, _: &Session, reply: Reply) -> After {
    ask.reply(reply);
    After::Done
}

#[inline]
fn recipient(ask: Ask<'_, kind::Rcpt>, session: &Session, answer: Reply) -> After {
    if session.meters().are_on() {
        measure_recipient(session, &answer);
    }
    reply(ask, session, answer)
}

#[cold]
fn measure_recipient(session: &Session, answer: &Reply) {
    session.meters().recipient(Verdict::outcome(answer));
}

fn greeted(ask: Ask<'_, kind::Helo>, _: &Session, reply: Reply) -> After {
    // An intermediate reply does not accept HELO.
    let is_accepted = reply.is_positive() && !reply.code().is_intermediate();
    ask.reply(reply);
    if is_accepted {
        After::Greeted
    } else {
        After::Done
    }
}

/// Calls the phase's service, or uses the default reply. An immediate answer is passed on at once.
fn call<P: Phase, K: 'static>(
    cx: &mut Context<'_>,
    service: Option<&BoxPhaseService<P>>,
    session: &Session,
    payload: P,
    ask: Ask<'_, K>,
    pass_on: impl FnOnce(Ask<'_, K>, &Session, P::Response) -> After + Send + 'static,
) -> After {
    let answer = match service {
        None => payload.default_response(),
        Some(service) => {
            let deadline = Deadline::at(Instant::from_std(ask.until()));
            let request = Request::due(session.clone(), payload, deadline);
            match Call::start(service, request, cx) {
                Outcome::Answered(result) => resolve::<P>(session, result),
                other => return pass_on_later(other, session, ask, pass_on),
            }
        }
    };
    pass_on(ask, session, answer)
}

/// Handles a service that has not simply answered. Apart from the call, so that what most services do costs no more for it.
#[cold]
fn pass_on_later<P: Phase, K: 'static>(
    outcome: Outcome<P>,
    session: &Session,
    ask: Ask<'_, K>,
    pass_on: impl FnOnce(Ask<'_, K>, &Session, P::Response) -> After + Send + 'static,
) -> After {
    match outcome {
        Outcome::Answered(result) => pass_on(ask, session, resolve::<P>(session, result)),
        Outcome::Panicked(result, message) => After::Panicked(Box::new(Panic {
            phase: P::KIND,
            message,
            then: pass_on(ask, session, resolve::<P>(session, result)),
        })),
        Outcome::Pending(call) => {
            let question = if call.is_waiting() {
                ask.queue()
            } else {
                ask.defer()
            };
            let answer = Some((question, pass_on));
            After::Work(Box::new(Pending { call, answer }), Polled::Yes)
        }
    }
}
