//! What a client receives if a body fails, and where else the error is reported.

use std::sync::{Arc, Mutex};

use smtpd_tower::{
    Body, BodyError, BoxError, Data, DataReply, Pipeline, Rcpt, Reply, Request, Server,
    deliver::{Discard, Inbox, Maildir},
    handler_fn,
    layer::{MapBodyLayer, SizeLimitLayer, TeeLayer},
    phase::PhaseKind,
    reply::IntoReply,
    router::Router,
    service::{BoxPhaseService, PhaseService},
    test::Client,
};
use tower::{Layer, ServiceBuilder, service_fn};

/// Returns the reply to one message, and what is passed to `on_error` meanwhile, with all causes.
async fn told(data: impl PhaseService<Data>) -> (String, Vec<String>) {
    let errors = Arc::<Mutex<Vec<String>>>::default();
    let reported = errors.clone();
    let pipeline = Pipeline::new()
        .rcpt(handler_fn(async |_: Request<Rcpt>| {}))
        .data(data);
    let server = Server::new("mx.test", pipeline).on_error(move |_, error| {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        reported.lock().unwrap().push(text);
    });
    let mut client = Client::connect(&server);
    let to = ["b@example.org", "c@example.net"];
    let reply = client.send("a@example.com", to, "Hello\r\n").await.unwrap();
    client.quit().await.unwrap();
    client.ended().await.unwrap();
    (
        reply.to_string(),
        std::mem::take(&mut errors.lock().unwrap()),
    )
}

/// Yields that error instead of the message.
fn failing(error: BodyError) -> impl Layer<DataService, Service: PhaseService<Data>> + Clone {
    MapBodyLayer::new(move |body: Body| {
        let error = error.clone();
        body.try_inspect(move |_| Err(error.clone()))
    })
}

type DataService = BoxPhaseService<Data>;

fn around(
    layer: impl Layer<DataService, Service: PhaseService<Data>>,
    service: impl PhaseService<Data>,
) -> DataService {
    DataService::new(layer.layer(DataService::new(service)))
}

/// Everything that reads a body and replies by itself.
fn readers(directory: &std::path::Path) -> Vec<(&'static str, DataService)> {
    async fn body_error(request: Request<Data>) -> Result<Reply, BodyError> {
        request.into_body().collect().await.map(|_| Reply::OK)
    }
    async fn any_error(request: Request<Data>) -> Result<Reply, BoxError> {
        request.into_body().collect().await?;
        Ok(Reply::OK)
    }
    async fn reader(request: Request<Data>) -> Result<Reply, BoxError> {
        tokio::io::copy(
            &mut request.into_body().into_reader(),
            &mut tokio::io::sink(),
        )
        .await?;
        Ok(Reply::OK)
    }
    let sink = TeeLayer::new(|_| Some(async { Ok(tokio::io::sink()) }));
    let split = || {
        Router::new()
            .domain("example.org".parse().unwrap(), Inbox::new())
            .domain("example.net".parse().unwrap(), Discard)
    };
    vec![
        ("handler_fn", DataService::new(handler_fn(body_error))),
        ("service_fn", DataService::new(service_fn(any_error))),
        ("reader", DataService::new(service_fn(reader))),
        ("Inbox", DataService::new(Inbox::new())),
        ("Discard", DataService::new(Discard)),
        (
            "Maildir",
            DataService::new(Maildir::new(directory.join("mail"))),
        ),
        (
            "SizeLimitLayer",
            around(SizeLimitLayer::new(100), Inbox::new()),
        ),
        ("TeeLayer", around(sink, Inbox::new())),
        (
            "MapBodyLayer",
            around(
                MapBodyLayer::new(|body: Body| body.prepend("X: 1\r\n")),
                Inbox::new(),
            ),
        ),
        ("Router", DataService::new(split())),
    ]
}

#[tokio::test]
async fn a_refusal_in_a_body_is_not_lost_in_a_451() {
    let directory = tempfile::tempdir().unwrap();
    let virus = Reply::rejected("Virus found");
    let deep = BodyError::other(std::io::Error::other(BodyError::refused(virus.clone())));
    for error in [
        BodyError::refused(virus.clone()),
        deep,
        virus.clone().into(),
    ] {
        for (name, reader) in readers(directory.path()) {
            let told = told(around(failing(error.clone()), reader)).await;
            assert_eq!(told, (virus.to_string(), vec![]), "{name}");
        }
    }
}

#[tokio::test]
async fn a_fault_in_a_body_is_not_hidden_by_its_451() {
    let directory = tempfile::tempdir().unwrap();
    for (name, reader) in readers(directory.path()) {
        let fault = BodyError::other(std::io::Error::other("scanner at 10.0.0.5 is gone"));
        let (reply, errors) = told(around(failing(fault), reader)).await;
        assert_eq!(reply, "451 4.3.0 Local error in processing", "{name}");
        // Two routes have read it, and each tells.
        assert_eq!(
            errors.len(),
            if name == "Router" { 2 } else { 1 },
            "{name}: {errors:?}"
        );
        for error in errors {
            assert!(
                error.starts_with("data service failed: ") && error.ends_with("is gone"),
                "{name}: {error}"
            );
        }
    }
}

#[tokio::test]
async fn what_the_client_has_done_wrong_is_no_fault() {
    let directory = tempfile::tempdir().unwrap();
    for (error, code) in [
        (BodyError::TooLarge, "552"),
        (BodyError::BareNewline, "550"),
        (BodyError::NulByte, "554"),
    ] {
        for (name, reader) in readers(directory.path()) {
            let (reply, errors) = told(around(failing(error.clone()), reader)).await;
            assert!(reply.starts_with(code), "{name}: {reply}");
            assert!(errors.is_empty(), "{name}: {errors:?}");
        }
    }
}

#[tokio::test]
async fn a_handler_that_fails_by_itself_is_told_of() {
    let data = handler_fn(async |_: Request<Data>| Err::<Reply, _>(BodyError::other("disk gone")));
    let (reply, errors) = told(data).await;
    assert_eq!(reply, "451 4.3.0 Local error in processing");
    assert_eq!(
        errors,
        ["data service failed: message body failed: disk gone"]
    );

    let data = ServiceBuilder::new()
        .layer(smtpd_tower::layer::from_fn(async |_: Request<Data>, _| {
            Ok(Err::<Reply, _>(BodyError::other("disk gone")))
        }))
        .service(Inbox::new());
    let (reply, errors) = told(data).await;
    assert_eq!(reply, "451 4.3.0 Local error in processing");
    assert_eq!(
        errors,
        ["data service failed: message body failed: disk gone"]
    );
}

#[tokio::test]
async fn a_fault_of_an_answer_of_ones_own_is_told_of() {
    /// An error that the client does not see.
    struct Gone;

    impl IntoReply<DataReply> for Gone {
        fn into_reply(self) -> DataReply {
            Reply::busy().into()
        }

        fn fault(&self) -> Option<BoxError> {
            Some("the index is gone".into())
        }
    }

    let data = handler_fn(async |_: Request<Data>| Err::<(), _>(Gone));
    let (reply, errors) = told(data).await;
    assert_eq!(reply, Reply::busy().to_string());
    assert_eq!(errors, ["data service failed: the index is gone"]);
}

#[tokio::test]
async fn an_io_error_of_a_handler_is_not_blamed_on_the_body() {
    async fn own(_: Request<Data>) -> Result<Reply, BodyError> {
        Err(std::io::Error::from(std::io::ErrorKind::StorageFull))?
    }
    let (reply, errors) = told(handler_fn(own)).await;
    assert_eq!(reply, Reply::storage_full().to_string());
    let expected = "data service failed: I/O of the handler failed: no storage space";
    assert_eq!(errors, [expected]);
}

#[tokio::test]
async fn an_io_error_that_a_body_made_is_not_blamed_on_the_handler() {
    async fn reader(request: Request<Data>) -> Result<Reply, BodyError> {
        let mut reader = request.into_body().into_reader();
        tokio::io::copy(&mut reader, &mut tokio::io::sink()).await?;
        Ok(Reply::OK)
    }
    let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
    let layer = failing(BodyError::other(full));
    let (_, errors) = told(around(layer, handler_fn(reader))).await;
    let expected = "data service failed: message body failed: no storage space";
    assert_eq!(errors, [expected]);
}

#[tokio::test]
async fn an_error_hook_that_panics_costs_no_reply() {
    let data = handler_fn(async |request: Request<Data>| {
        let stored = request.session().clone();
        request.into_body().collect().await.map(|_| {
            stored.report_fault(PhaseKind::Data, "the index is gone");
            Reply::ok("Stored")
        })
    });
    let pipeline = Pipeline::new()
        .rcpt(handler_fn(async |_: Request<Rcpt>| {}))
        .data(data);
    let server = Server::new("mx.test", pipeline).on_error(|_, error| panic!("{error}"));
    let mut client = Client::connect(&server);
    for _ in 0..2 {
        let reply = client.send("a@example.com", ["b@example.org"], "Hello\r\n");
        assert_eq!(reply.await.unwrap().to_string(), "250 2.0.0 Stored");
    }
    client.quit().await.unwrap();
    client.ended().await.unwrap();
}
