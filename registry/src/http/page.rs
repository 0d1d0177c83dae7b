//! A plain page for a person with a browser.

use std::fmt::Write;

use axolotl_common::registry_api::{NodeStatus, StatusResponse};
use axum::{extract::State, http::header, response::IntoResponse};

use super::{Api, admission::Place, error::ApiError};

const HEAD: &str = "<!doctype html><html lang=en><meta charset=utf-8>\
<meta http-equiv=refresh content=5><title>Axolotl</title>\
<style>body{font:16px sans-serif;margin:2em;max-width:70em}table{border-collapse:collapse}\
td,th{padding:.3em .8em;text-align:left;border-bottom:1px solid #ccc}.w{color:#a40000}</style>\
<h1>Axolotl</h1>";

/// The page. Everything comes from the registry itself, and nothing on it is a script.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// What is to be said of a node beside its state.
fn remarks(node: &NodeStatus) -> String {
    let symptom = node.symptom.as_ref();
    let symptom = symptom.map(|symptom| format!(", {}: {}", symptom.code, symptom.text));
    let detail = node.detail.as_ref().map(|detail| format!(": {detail}"));
    let faults = node.proposal_faults.as_ref();
    let faults = faults.map(|faults| format!(", {faults}"));
    [symptom, faults, detail].into_iter().flatten().collect()
}

fn render(status: &StatusResponse) -> Result<String, std::fmt::Error> {
    let mut page = HEAD.to_owned();
    for warning in &status.warnings {
        write!(page, "<p class=w>{}</p>", escape(warning))?;
    }
    match &status.forming {
        Some(forming) => write!(page, "<p>{}</p>", escape(forming))?,
        None => write!(
            page,
            "<p>{} of {} nodes healthy, height {}, epoch {}, {} votes make a quorum, leader {}</p>",
            status.healthy_nodes,
            status.total_nodes,
            status.height,
            status.epoch,
            status.quorum,
            status
                .leader
                .as_ref()
                .map_or("unknown", |label| label.as_str()),
        )?,
    }
    page.push_str("<table><tr><th>Node<th>State<th>Role<th>Height<th>Peers<th>Pool<th>JSON-RPC");
    for node in status.nodes.values() {
        write!(
            page,
            "<tr><td>{}<td>{}{}<td>{:?}<td>{}<td>{}<td>{}<td>{}",
            escape(node.id.as_str()),
            format!("{:?}", node.state).to_lowercase(),
            escape(&remarks(node)),
            node.role,
            node.height,
            node.peers,
            node.tx_pool_size,
            escape(node.public_rpc_url.as_deref().unwrap_or(&node.rpc_url)),
        )?;
    }
    page.push_str("</table>");
    Ok(page)
}

/// A page for people
#[utoipa::path(get, path = "/", tag = "network", responses((status = 200, body = String, content_type = "text/html")))]
pub(super) async fn page(
    State(api): State<Api>,
    _place: Place,
) -> Result<impl IntoResponse, ApiError> {
    let status = api.registry.status().await?;
    // Writing to a String does not fail; the type asks for it.
    let page = render(&status).unwrap_or_default();
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, page))
}
