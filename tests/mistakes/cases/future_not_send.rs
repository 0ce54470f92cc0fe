use std::rc::Rc;

use smtpd_tower::{Pipeline, Rcpt, Request, handler_fn};

fn main() {
    let _ = Pipeline::new().rcpt(handler_fn(async |_: Request<Rcpt>| {
        let names = Rc::new(["alice"]);
        tokio::task::yield_now().await;
        drop(names);
    }));
}
