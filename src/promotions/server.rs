//! MLflow's tracking server, asked for the aliases of a registered model.
//!
//! **Source:** MLflow's REST API 2.0, `GET registered-models/get`: `{"registered_model": {"aliases": [{"alias": …, "version": …}]}}`; 404
//! where there is none of that name.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Client, Response, StatusCode};
use serde::Deserialize;

use super::versions::Aliases;
use crate::config::{MlflowAccess, MlflowServer};

/// The longest answer that is read.
const LONGEST: usize = 4 << 20;

/// The server.
pub(super) struct Server {
    config: MlflowServer,
    client: Client,
}

/// Why the aliases are not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// No answer, or not in time.
    #[error("no answer")]
    Unreachable(#[from] reqwest::Error),
    /// It refused, or could not answer.
    #[error("status {0}")]
    Refused(StatusCode),
    /// It is not MLflow's.
    #[error("the answer is not MLflow's")]
    Unreadable(#[from] serde_json::Error),
    /// It does not end.
    #[error("the answer is longer than {LONGEST} bytes")]
    TooLong,
}

#[derive(Deserialize)]
struct Answer {
    registered_model: Model,
}

#[derive(Deserialize)]
struct Model {
    /// Left out where there are none.
    #[serde(default)]
    aliases: Vec<Alias>,
}

#[derive(Deserialize)]
struct Alias {
    alias: String,
    version: String,
}

impl Server {
    /// Connects to nothing yet.
    ///
    /// # Errors
    ///
    /// TLS cannot be set up.
    pub(super) fn new(config: &MlflowServer) -> Result<Self, reqwest::Error> {
        let client = Client::builder().timeout(config.timeout).user_agent(concat!("weir/", env!("CARGO_PKG_VERSION")));
        Ok(Self { config: config.clone(), client: client.build()? })
    }

    /// The aliases of a registered model; `None`: there is no such model.
    pub(super) async fn aliases(&self, name: &str) -> Result<Option<Aliases>, Error> {
        let name = utf8_percent_encode(name, NON_ALPHANUMERIC);
        let asked = self.client.get(format!("{}/api/2.0/mlflow/registered-models/get?name={name}", self.config.url));
        let asked = match &self.config.access {
            MlflowAccess::Anonymous => asked,
            MlflowAccess::Bearer(token) => asked.bearer_auth(&token.0),
            MlflowAccess::Basic(user, password) => asked.basic_auth(user, Some(&password.0)),
        };
        let answer = asked.send().await?;
        match answer.status() {
            StatusCode::OK => read(answer).await.map(Some),
            StatusCode::NOT_FOUND => missing(answer).await.map(|()| None),
            status => Err(Error::Refused(status)),
        }
    }
}

async fn read(answer: Response) -> Result<Aliases, Error> {
    let Answer { registered_model: model } = serde_json::from_slice(&body(answer).await?)?;
    Ok(model.aliases.into_iter().map(|Alias { alias, version }| (alias, version)).collect())
}

/// That MLflow itself says 404, not a proxy on the way, to whom every model would be one that was deleted.
async fn missing(answer: Response) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Said {
        error_code: String,
    }
    let Said { error_code } = serde_json::from_slice(&body(answer).await?)?;
    if error_code == "RESOURCE_DOES_NOT_EXIST" { Ok(()) } else { Err(Error::Refused(StatusCode::NOT_FOUND)) }
}

async fn body(mut answer: Response) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if body.len() + chunk.len() > LONGEST {
            return Err(Error::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
