use std::time::Duration;

use smtpd_tower::{Pipeline, Rcpt, Request, handler_fn};
use tower::ServiceBuilder;

fn main() {
    let rcpt = ServiceBuilder::new()
        .rate_limit(5, Duration::from_secs(1))
        .service(handler_fn(async |_: Request<Rcpt>| {}));
    let _ = Pipeline::new().rcpt(rcpt);
}
