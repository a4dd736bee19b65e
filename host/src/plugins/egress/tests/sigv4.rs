//! AWS Signature Version 4 once more, from its description, to check with what the server's side would compute.

use hmac::{Hmac, KeyInit as _, Mac as _};
use http::request::Parts;
use sha2::{Digest as _, Sha256};

/// Why a server would refuse this request, if it would.
pub fn fault(parts: &Parts, body: &[u8], id: &str, secret: &str, region: &str, service: &str) -> Option<String> {
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let said = header("authorization");
    let rest = said.strip_prefix("AWS4-HMAC-SHA256 ")?;
    let part = |name: &str| rest.split(", ").find_map(|part| part.strip_prefix(name)).unwrap_or_default();
    let (scope, signed, signature) = (part("Credential="), part("SignedHeaders="), part("Signature="));
    let time = header("x-amz-date");
    let day = time.get(..8)?;
    let expected = format!("{id}/{day}/{region}/{service}/aws4_request");
    if scope != expected {
        return Some(format!("the scope is `{scope}`, not `{expected}`"));
    }
    for must in ["host", "x-amz-date"] {
        if !signed.split(';').any(|name| name == must) {
            return Some(format!("`{must}` is not signed"));
        }
    }
    // What begins so must be signed, all of it.
    let unsigned = parts
        .headers
        .keys()
        .find(|name| name.as_str().starts_with("x-amz-") && !signed.split(';').any(|signed| signed == name.as_str()));
    if let Some(name) = unsigned {
        return Some(format!("`{name}` is there and not signed"));
    }
    let mut query: Vec<&str> =
        parts.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).collect();
    query.sort_unstable();
    let query: Vec<_> =
        query.into_iter().map(|pair| if pair.contains('=') { pair.to_owned() } else { format!("{pair}=") }).collect();
    let headers: String = signed.split(';').map(|name| format!("{name}:{}\n", header(name).trim())).collect();
    let digest = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
    let canonical =
        format!("{}\n{}\n{}\n{headers}\n{signed}\n{}", parts.method, parts.uri.path(), query.join("&"), digest(body));
    let (_, scope) = scope.split_once('/')?;
    let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", digest(canonical.as_bytes()));
    let mac = |key: &[u8], text: &str| {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().to_vec()
    };
    let key = [day, region, service, "aws4_request"]
        .iter()
        .fold(format!("AWS4{secret}").into_bytes(), |key, text| mac(&key, text));
    let right = hex::encode(mac(&key, &to_sign));
    (right != signature).then(|| format!("the signature is `{signature}`, not `{right}`, over\n{canonical}"))
}
