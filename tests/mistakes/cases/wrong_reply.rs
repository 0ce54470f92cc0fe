use smtpd_tower::{Pipeline, Rcpt, Request, handler_fn};

fn main() {
    let _ = Pipeline::new().rcpt(handler_fn(async |_: Request<Rcpt>| "Welcome".to_owned()));
}
