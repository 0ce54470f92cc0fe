use smtpd_tower::{BoxError, Pipeline, Rcpt, Request, layer::TraceLayer};
use tower::{ServiceBuilder, service_fn};

fn main() {
    let rcpt = ServiceBuilder::new()
        .layer(TraceLayer::new())
        .service(service_fn(async |_: Request<Rcpt>| Ok::<_, BoxError>(())));
    let _ = Pipeline::new().rcpt(rcpt);
}
