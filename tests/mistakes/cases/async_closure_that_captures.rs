use std::{collections::HashSet, sync::Arc};

use smtpd_tower::{Pipeline, Rcpt, Reply, Request, handler_fn};

fn main() {
    let users = Arc::new(HashSet::from(["alice@example.org"]));
    let _ = Pipeline::new().rcpt(handler_fn(async move |request: Request<Rcpt>| {
        match users.contains(request.recipient().as_str()) {
            true => Ok(()),
            false => Err(Reply::no_such_user()),
        }
    }));
}
