use smtpd_tower::{Pipeline, Rcpt, Request};

async fn rcpt(_: Request<Rcpt>) {}

fn main() {
    let _ = Pipeline::new().rcpt(rcpt);
}
