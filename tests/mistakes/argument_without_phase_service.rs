use smtpd_tower::{Data, Pipeline, ServePhase, layer::SizeLimitLayer};
use tower::ServiceBuilder;

fn small(deliver: impl ServePhase<Data>) -> Pipeline {
    let data = ServiceBuilder::new()
        .layer(SizeLimitLayer::new(100_000))
        .service(deliver);
    Pipeline::new().data(data)
}

fn main() {
    let _ = small(smtpd_tower::deliver::Inbox::new());
}
