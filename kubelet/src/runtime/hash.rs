//! The hash that tells whether a running container is still the one its spec asks for. It is upstream's, so that
//! swapping the kubelet under running pods restarts nothing.

use std::fmt::Write;

use k8s_openapi::api::core::v1::Container;

/// FNV-1a over Go's dump of the JSON of name and image, in hexadecimal.
pub(crate) fn container(container: &Container) -> String {
    let image = serde_json::Value::from(container.image.clone().unwrap_or_default());
    let name = serde_json::Value::from(container.name.clone());
    let json = format!("{{\"image\":{image},\"name\":{name}}}");
    let mut dump = String::from("([]uint8)[");
    for (index, byte) in json.bytes().enumerate() {
        let separator = if index == 0 { "" } else { " " };
        let _ = write!(dump, "{separator}{byte}");
    }
    dump.push(']');
    format!("{:x}", fnv32a(dump.as_bytes()))
}

fn fnv32a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_upstream() {
        let test =
            Container { name: "test_container".into(), image: Some("foo/image:v1".into()), ..Default::default() };
        assert_eq!(container(&test), "8e45cbd0");
    }
}
