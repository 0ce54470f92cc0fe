use smtpd_tower::{Auth, Pipeline, Request, handler_fn};

fn main() {
    let _ = Pipeline::new().auth(handler_fn(async |_: Request<Auth>| {}));
}
