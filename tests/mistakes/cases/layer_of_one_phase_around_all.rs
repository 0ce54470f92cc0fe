use smtpd_tower::{Pipeline, layer::DomainFilterLayer};

fn main() {
    let _ = Pipeline::new().layer(DomainFilterLayer::parse(["example.org"]).unwrap());
}
