use smtpd_tower::{Mail, Pipeline, Request, handler_fn, layer::DomainFilterLayer};
use tower::ServiceBuilder;

fn main() {
    let mail = ServiceBuilder::new()
        .layer(DomainFilterLayer::parse(["example.org"]).unwrap())
        .service(handler_fn(async |_: Request<Mail>| {}));
    let _ = Pipeline::new().mail(mail);
}
