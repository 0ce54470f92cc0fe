use smtpd_tower::{Data, Pipeline, layer::SizeLimitLayer, service::PhaseService};
use tower::ServiceBuilder;

fn small(deliver: impl PhaseService<Data>) -> Pipeline {
    let data = ServiceBuilder::new()
        .layer(SizeLimitLayer::new(100_000))
        .service(deliver);
    Pipeline::new().data(data)
}

fn main() {
    let _ = small(smtpd_tower::deliver::Inbox::new());
}
