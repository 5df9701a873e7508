//! That a delivery is MLflow's own: an HMAC over its id, its time and its body.
//!
//! **Source:** `mlflow/webhooks/delivery.py` (MLflow 3.3 and later), which follows standardwebhooks.com: `x-mlflow-signature` is
//! `v1,` and the base64 of HMAC-SHA256 over `{x-mlflow-delivery-id}.{x-mlflow-timestamp}.{body}` under the secret's UTF-8 bytes.

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::Delivery;

/// The only version there is.
const VERSION: &str = "v1,";

/// The webhook's secret.
pub(super) struct Signer(hmac::Key);

impl Signer {
    pub(super) fn new(secret: &str) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()))
    }

    /// Whether one of a delivery's signatures (several stand beside each other while a secret is replaced) is this secret's. Takes as long
    /// for a nearly right one as for a wrong one.
    pub(super) fn made(&self, delivery: &Delivery<'_>) -> bool {
        let Delivery { id, timestamp, signature, body } = delivery;
        let signed = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat();
        let tags = signature.split(' ').filter_map(|each| STANDARD.decode(each.strip_prefix(VERSION)?).ok());
        tags.into_iter().any(|tag| hmac::verify(&self.0, &signed, &tag).is_ok())
    }
}
