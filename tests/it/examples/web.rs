//! A client of the pages that examples serve.

use axum::{
    Router,
    body::{Body, to_bytes},
    http::Request,
};
use http_body_util::{BodyExt, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tower::ServiceExt;

fn request<B>(method: &str, url: &str, body: B) -> Request<B> {
    let request = Request::builder().method(method).uri(url);
    request.body(body).unwrap()
}

/// Asks the routes of an example in this process, and returns the status and the body.
pub async fn ask(routes: &Router, method: &str, path: &str) -> (u16, String) {
    let request = request(method, path, Body::empty());
    let response = routes.clone().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// Asks an example that is a process of its own.
pub async fn fetch(method: &str, url: &str) -> (u16, String) {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<&[u8]>>();
    let response = client.request(request(method, url, Empty::new())).await;
    let (head, body) = response.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (
        head.status.as_u16(),
        String::from_utf8(body.to_vec()).unwrap(),
    )
}
