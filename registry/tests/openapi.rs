//! The OpenAPI document that is checked in is the one that is served.

#[test]
fn the_document_is_checked_in() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
    let checked_in = std::fs::read_to_string(path).unwrap_or_default();
    let served = axolotl_registry::openapi::text();
    let differs = checked_in
        .lines()
        .zip(served.lines())
        .position(|(one, two)| one != two);
    assert!(
        checked_in == served,
        "docs/openapi.json is not what the handlers say (first difference in line {:?}); write it \
         with `axolotl-registry openapi > docs/openapi.json`",
        differs.map(|line| line + 1)
    );
}
