//! How a machine becomes a runner: the user-data that cloud-init finds in the seed. All of it is secret.

use pacer_backend::{Bootstrap, Error, bootstrap};

/// Bytes of user-data; a start script with everything in it is a twentieth of that.
const USER_DATA_MAX: usize = 1024 * 1024;

/// The user-data.
pub fn user_data(bootstrap: &Bootstrap) -> Result<String, Error> {
    let text = bootstrap::user_data(bootstrap)?;
    if text.len() > USER_DATA_MAX {
        return Err(Error::invalid_request(format!("the bootstrap is longer than {USER_DATA_MAX} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use pacer_backend::{Bootstrap, ErrorKind};

    use super::{USER_DATA_MAX, user_data};

    #[test]
    fn what_is_too_long_is_refused() {
        let long = |bytes: usize| user_data(&Bootstrap::CloudInit("x".repeat(bytes)));
        assert_eq!(long(USER_DATA_MAX + 1).unwrap_err().kind, ErrorKind::InvalidRequest);
        assert_eq!(long(USER_DATA_MAX).unwrap().len(), USER_DATA_MAX);
    }
}
