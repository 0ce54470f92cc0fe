use std::collections::HashSet;

use smtpd_tower::{Pipeline, Rcpt, Reply, Request, handler_fn};

fn main() {
    let users = HashSet::from(["alice@example.org"]);
    let _ = Pipeline::new().rcpt(handler_fn(|request: Request<Rcpt>| {
        let known = users.contains(request.recipient().as_str());
        async move { if known { Ok(()) } else { Err(Reply::no_such_user()) } }
    }));
}
