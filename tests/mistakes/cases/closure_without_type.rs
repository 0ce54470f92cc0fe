use smtpd_tower::{Pipeline, Reply, handler_fn};

fn main() {
    let _ = Pipeline::new().rcpt(handler_fn(async |request| {
        if request.recipient().as_str().starts_with("nobody@") {
            return Err(Reply::no_such_user());
        }
        Ok(())
    }));
}
