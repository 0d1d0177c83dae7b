//! The head of the OpenAPI document, and what holds for every call; the calls are collected from the
//! handlers.

use axolotl_common::{
    ids::{MAX_HEIGHT, MAX_ROUND},
    registry_api::Problem,
};
use utoipa::{
    Number, OpenApi,
    openapi::{
        Content, KnownFormat, LicenseBuilder, Ref, RefOr, ResponseBuilder, Schema, SchemaFormat,
        path::Operation,
        schema::{ArrayItems, SchemaType},
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

/// Media type of every error.
const PROBLEM: &str = "application/problem+json";

/// Whose answer an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    /// Any call's.
    Every,
    /// A call's that may have a body.
    Sending,
    /// A call's that must have one.
    Document,
}

/// Errors that come before, or instead of, a call's own: status, name, meaning, and whose they are.
const COMMON: [(&str, &str, &str, Of); 8] = [
    (
        "408",
        "TooSlow",
        "it took too long to arrive or to answer",
        Of::Every,
    ),
    (
        "500",
        "Failed",
        "the registry failed; its log says why",
        Of::Every,
    ),
    (
        "503",
        "Busy",
        "too many requests at once, or the registry is ending; try again",
        Of::Every,
    ),
    (
        "400",
        "Unreadable",
        "the body, or a header, cannot be read",
        Of::Sending,
    ),
    ("403", "Foreign", "sent by a foreign web page", Of::Sending),
    (
        "413",
        "TooLarge",
        "the body is larger than 1 MiB",
        Of::Sending,
    ),
    (
        "415",
        "NotJson",
        "there is a body, and it is not application/json",
        Of::Sending,
    ),
    (
        "422",
        "Unfitting",
        "a field is missing, or has a value that does not fit",
        Of::Document,
    ),
];

/// Numbers that are refused above a bound of their own.
const NUMBERS: [(&str, u64); 3] = [
    ("Height", MAX_HEIGHT),
    ("Epoch", MAX_HEIGHT),
    ("Round", MAX_ROUND as u64),
];

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
        for (_, name, meaning, _) in COMMON {
            let problem = Content::new(Some(Ref::from_schema_name("Problem")));
            let response = ResponseBuilder::new()
                .description(meaning)
                .content(PROBLEM, problem);
            components
                .responses
                .insert(name.to_owned(), response.into());
        }
    }
    head
}

/// Adds to each call what the handlers need not repeat: the media type of errors, and the errors
/// that many calls have.
pub fn complete(mut document: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    for item in document.paths.paths.values_mut() {
        let reading = item.get.iter_mut().map(|call| (call, Of::Every));
        let sending = item.post.iter_mut().chain(&mut item.delete);
        let sending = sending.map(|call| match call.request_body {
            Some(_) => (call, Of::Document),
            None => (call, Of::Sending),
        });
        for (call, kind) in reading.chain(sending) {
            complete_call(call, kind);
        }
    }
    let schemas = document.components.iter_mut();
    for (name, schema) in schemas.flat_map(|components| components.schemas.iter_mut()) {
        bound(schema);
        if let (Some((_, most)), RefOr::T(Schema::Object(object))) =
            (NUMBERS.iter().find(|(number, _)| number == name), schema)
        {
            object.maximum = Some(Number::UInt(*most as usize));
        }
    }
    document
}

/// Writes the true bounds of unsigned numbers: there are formats for signed ones only.
fn bound(schema: &mut RefOr<Schema>) {
    let RefOr::T(schema) = schema else { return };
    match schema {
        Schema::Object(object) => {
            let integer = utoipa::openapi::Type::Integer;
            let is_integer = match &object.schema_type {
                SchemaType::Type(kind) => *kind == integer,
                SchemaType::Array(kinds) => kinds.contains(&integer),
                SchemaType::AnyValue => false,
            };
            if is_integer && object.minimum.is_some() && object.maximum.is_none() {
                let short = Some(SchemaFormat::KnownFormat(KnownFormat::Int32));
                let most = if object.format == short {
                    u32::MAX as usize
                } else {
                    usize::MAX
                };
                object.maximum = Some(Number::UInt(most));
                object.format = None;
            }
            object.properties.values_mut().for_each(bound);
        }
        Schema::Array(array) => {
            if let ArrayItems::RefOrSchema(items) = &mut array.items {
                bound(items);
            }
        }
        Schema::OneOf(one) => one.items.iter_mut().for_each(bound),
        Schema::AllOf(all) => all.items.iter_mut().for_each(bound),
        Schema::AnyOf(any) => any.items.iter_mut().for_each(bound),
        _ => {}
    }
}

fn complete_call(call: &mut Operation, kind: Of) {
    let responses = &mut call.responses.responses;
    for (status, response) in responses.iter_mut() {
        if let RefOr::T(response) = response
            && status.as_str() >= "400"
            && let Some(content) = response.content.swap_remove("application/json")
        {
            response.content.insert(PROBLEM.to_owned(), content);
        }
    }
    for (status, name, _, of) in COMMON {
        if of <= kind {
            let common = Ref::new(format!("#/components/responses/{name}"));
            let entry = responses.entry(status.to_owned());
            entry.or_insert(RefOr::Ref(common));
        }
    }
}

/// The whole document as it is served and checked in.
pub fn text() -> String {
    let mut text = crate::http::document().to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}
