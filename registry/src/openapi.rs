//! The head of the OpenAPI document; the calls are collected from the handlers.

use axolotl_common::registry_api::Problem;
use utoipa::{
    OpenApi,
    openapi::{
        LicenseBuilder,
        security::{Http, HttpAuthScheme, SecurityScheme},
    },
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Axolotl registry",
        description = "Introduces the nodes of an Axolotl network, watches them, starts them. \
Node calls are signed with the node's Ed25519 key (headers x-axolotl-key, -timestamp, -counter, \
-signature); operator calls carry the admin token. Errors are application/problem+json.",
    ),
    components(schemas(Problem))
)]
struct Head;

/// Title, licence and security schemes.
pub fn head() -> utoipa::openapi::OpenApi {
    let mut head = Head::openapi();
    head.info.license = Some(LicenseBuilder::new().name("Apache-2.0").build());
    head.info.contact = None;
    if let Some(components) = &mut head.components {
        components.add_security_scheme(
            "admin",
            SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)),
        );
    }
    head
}

/// The whole document as it is served and checked in.
pub fn text() -> String {
    let mut text = crate::http::document().to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}
