//! Checks that a setup does the work it is measured for, before and after it is measured.
//!
//! Passing through: the model got the very bytes that were sent, the client the very bytes that the model answered. Joined:
//! every user's ten features reached the model as one matrix, from L1, at level 0, with nothing degraded.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    backend::ANSWER,
    caller::{Answer, Caller},
    feast,
};

/// A whole request that has the model `m` infer with `body`.
pub(crate) fn inference(body: &str) -> Vec<u8> {
    inference_of("m", body)
}

/// The same of another model.
pub(crate) fn inference_of(model: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let head = "host: bench.local\r\nuser-agent: weir-e2e\r\naccept: */*\r\ncontent-type: application/json";
    format!("POST /v2/models/{model}/infer HTTP/1.1\r\n{head}\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

/// What is sent where nothing is joined: one row of ten features.
pub(crate) fn plain_body() -> String {
    let data: Vec<String> = (0..feast::FEATURES).map(|index| feast::value(1001, index).to_string()).collect();
    let data = data.join(",");
    format!(r#"{{"inputs":[{{"name":"input-0","datatype":"FP32","shape":[1,{}],"data":[{data}]}}]}}"#, feast::FEATURES)
}

/// What is sent where the features of `user` are joined.
pub(crate) fn joined_body(user: i64) -> String {
    format!(r#"{{"inputs":[{{"name":"{}","datatype":"INT64","shape":[1],"data":[{user}]}}]}}"#, feast::ENTITY)
}

/// Sends one plain inference through `server`.
pub(crate) fn passes_through(server: SocketAddr, backend: SocketAddr) -> Result<()> {
    let body = plain_body();
    let answer = Caller::connect(server)?.call(&inference(&body))?;
    ensure_is_the_models(&answer)?;
    ensure!(last_body(backend)? == body.as_bytes(), "the model received another body than was sent");
    Ok(())
}

/// Sends one inference of each user; `cached` says that L1 must have the rows by now.
pub(crate) fn joins(server: SocketAddr, backend: SocketAddr, users: &[i64], cached: bool) -> Result<()> {
    for &user in users {
        let answer = Caller::connect(server)?.call(&inference(&joined_body(user)))?;
        ensure_is_the_models(&answer)?;
        let level = answer.header("weir-level").unwrap_or("absent");
        ensure!(level == "0", "user {user}: weir-level is {level}, not 0");
        if let Some(degraded) = answer.header("weir-degraded") {
            anyhow::bail!("user {user}: degraded: {degraded}");
        }
        let status = answer.header("cache-status").unwrap_or("absent");
        ensure!(!cached || status.contains("weir-l1; hit"), "user {user}: cache-status is {status}, not weir-l1; hit");
        ensure_matrix(&last_body(backend)?, user)?;
    }
    Ok(())
}

/// The model must have received exactly one tensor with the user's features in their order.
fn ensure_matrix(body: &[u8], user: i64) -> Result<()> {
    let text = String::from_utf8_lossy(body);
    let received: Value = serde_json::from_slice(body).with_context(|| format!("the model received {text}"))?;
    let inputs = received["inputs"].as_array().context("no inputs")?;
    let expected: Vec<f64> = (0..feast::FEATURES).map(|index| feast::value(user, index)).collect();
    let data: Vec<f64> = inputs
        .first()
        .and_then(|tensor| tensor["data"].as_array())
        .map(|data| data.iter().flat_map(flat).collect())
        .unwrap_or_default();
    let right = inputs.len() == 1
        && inputs[0]["name"] == "input-0"
        && inputs[0]["datatype"] == "FP32"
        && inputs[0]["shape"] == serde_json::json!([1, feast::FEATURES])
        && data == expected;
    ensure!(right, "user {user}: the model received {text}");
    Ok(())
}

/// V2 allows a tensor's data flat or nested.
fn flat(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().flat_map(flat).collect(),
        value => value.as_f64().into_iter().collect(),
    }
}

fn last_body(backend: SocketAddr) -> Result<Vec<u8>> {
    Ok(Caller::connect(backend)?.call(b"GET /last-body HTTP/1.1\r\nhost: bench.local\r\n\r\n")?.body)
}

pub(crate) fn ensure_is_the_models(answer: &Answer) -> Result<()> {
    let body = String::from_utf8_lossy(&answer.body);
    ensure!(answer.status == 200, "answered {}: {body}", answer.status);
    ensure!(body == ANSWER, "answered another body than the model's: {body}");
    let kind = answer.header("content-type").unwrap_or("absent");
    ensure!(kind == "application/json", "content-type is {kind}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_users_own_features_pass() {
        let body = plain_body();
        ensure_matrix(body.as_bytes(), 1001).unwrap();
        ensure_matrix(body.as_bytes(), 1002).unwrap_err();
        ensure_matrix(body.replace("FP32", "FP64").as_bytes(), 1001).unwrap_err();
    }
}
