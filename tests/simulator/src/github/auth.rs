//! The App's key and the tokens: checked as GitHub checks them.

use aws_lc_rs::{
    encoding::{AsDer as _, Pkcs8V1Der},
    rsa::{KeyPair, KeySize},
    signature::KeyPair as _,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderMap;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;

use super::{shapes::CLIENT_ID, state::now};

/// GitHub allows a clock to be off by this.
const SKEW: i64 = 60;
/// The longest life of an App's token.
const LONGEST: i64 = 600;

/// The key pair of the App.
pub struct AppKey {
    pub private_pem: String,
    public: DecodingKey,
}

impl AppKey {
    pub fn generate() -> anyhow::Result<Self> {
        let pair = KeyPair::generate(KeySize::Rsa2048)?;
        let der: Pkcs8V1Der<'_> = pair.as_der()?;
        let text = STANDARD.encode(der.as_ref());
        let mut private_pem = String::from("-----BEGIN PRIVATE KEY-----\n");
        for (index, c) in text.chars().enumerate() {
            if index > 0 && index % 64 == 0 {
                private_pem.push('\n');
            }
            private_pem.push(c);
        }
        private_pem.push_str("\n-----END PRIVATE KEY-----\n");
        Ok(Self { private_pem, public: DecodingKey::from_rsa_der(pair.public_key().as_ref()) })
    }

    /// Whether a request is the App's.
    pub fn verify(&self, headers: &HeaderMap, app_id: u64) -> Result<(), String> {
        #[derive(Deserialize)]
        struct Claims {
            iat: i64,
            exp: i64,
            iss: serde_json::Value,
        }
        let token = bearer(headers).ok_or("A JSON web token could not be decoded")?;
        let mut validation = Validation::new(Algorithm::RS256);
        validation.validate_exp = false;
        validation.required_spec_claims.clear();
        let claims = jsonwebtoken::decode::<Claims>(token, &self.public, &validation)
            .map_err(|_| "A JSON web token could not be decoded".to_owned())?
            .claims;
        let at = now().as_second();
        let issuer = claims.iss.as_str().map(str::to_owned).unwrap_or_else(|| claims.iss.to_string());
        if issuer != app_id.to_string() && issuer != CLIENT_ID {
            return Err("'Issuer' claim ('iss') must be the id of the App".to_owned());
        }
        if claims.iat > at + SKEW {
            return Err(
                "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued"
                    .to_owned(),
            );
        }
        if claims.exp <= at {
            return Err("'Expiration time' claim ('exp') must be a numeric value representing the future time at which the assertion expires".to_owned());
        }
        if claims.exp > at + LONGEST || claims.exp - claims.iat > LONGEST + SKEW {
            return Err("'Expiration time' claim ('exp') is too far in the future".to_owned());
        }
        Ok(())
    }
}

/// The credential of a request, of whichever scheme GitHub takes.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("token")).then_some(token.trim())
}
