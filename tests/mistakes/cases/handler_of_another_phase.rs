use smtpd_tower::{Mail, Pipeline, Request, handler_fn};

fn main() {
    let _ = Pipeline::new().rcpt(handler_fn(async |_: Request<Mail>| {}));
}
