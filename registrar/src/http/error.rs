//! Refusals, as JSON with a status that fits.

use axum::{
    Json,
    http::{Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};

use crate::{
    api::ApiError,
    service::ServiceError,
    signers::{Refused, keeper::KeeperError},
    store::StoreError,
};

/// What a handler refuses with.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Failure {
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            code: "bad_request",
            message: message.into(),
        }
    }

    pub fn too_large(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::PAYLOAD_TOO_LARGE,
            code: "too_large",
            message: message.into(),
        }
    }

    pub fn timed_out(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::REQUEST_TIMEOUT,
            code: "bad_request",
            message: message.into(),
        }
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            code: "unavailable",
            message: message.into(),
        }
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            code: "internal",
            message: message.into(),
        }
    }
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        let (status, code) = match &error {
            ServiceError::UnknownDevice(_) => (StatusCode::NOT_FOUND, "unknown_device"),
            ServiceError::UnknownGateway(_) => (StatusCode::NOT_FOUND, "unknown_gateway"),
            ServiceError::UnknownGroup(_) => (StatusCode::NOT_FOUND, "unknown_group"),
            ServiceError::NoKey(_) => (StatusCode::NOT_FOUND, "no_key"),
            ServiceError::UnknownMigration(_) => (StatusCode::NOT_FOUND, "unknown_migration"),
            ServiceError::NoEndpoint(_) | ServiceError::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
            ServiceError::Invalid(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            ServiceError::Unavailable(_) | ServiceError::Store(StoreError::Full { .. }) => {
                (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
            }
            ServiceError::Store(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        };
        Self {
            status,
            code,
            message: error.to_string(),
        }
    }
}

impl From<KeeperError> for Failure {
    fn from(error: KeeperError) -> Self {
        let (status, code) = match &error {
            KeeperError::Refused(Refused::Unknown(_)) => (StatusCode::NOT_FOUND, "unknown_key"),
            KeeperError::Refused(_) => (StatusCode::CONFLICT, "conflict"),
            KeeperError::Record { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
            KeeperError::Random | KeeperError::Commit(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        };
        Self {
            status,
            code,
            message: error.to_string(),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        ServiceError::from(error).into()
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        if self.status.is_server_error() {
            tracing::warn!(
                status = self.status.as_u16(),
                error = self.message,
                "request failed"
            );
        }
        (
            self.status,
            Json(ApiError {
                code: self.code.to_owned(),
                message: self.message,
            }),
        )
            .into_response()
    }
}

pub(super) async fn not_found(uri: Uri) -> Failure {
    let message = format!("there is nothing at {}", uri.path());
    Failure {
        status: StatusCode::NOT_FOUND,
        code: "bad_request",
        message,
    }
}

pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> Failure {
    let message = format!("{} does not take {method}", uri.path());
    Failure {
        status: StatusCode::METHOD_NOT_ALLOWED,
        code: "bad_request",
        message,
    }
}
