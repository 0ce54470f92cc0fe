use smtpd_tower::{Pipeline, layer::DomainFilterLayer};

fn main() {
    let _ = Pipeline::new().layer(DomainFilterLayer::new(["example.org"]));
}
