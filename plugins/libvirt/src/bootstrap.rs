//! How a machine becomes a runner: the user-data that cloud-init finds in the seed. All of it is secret.

use pacer_backend::{Bootstrap, Error};

/// Bytes of user-data; a start script with everything in it is a twentieth of that.
const USER_DATA_MAX: usize = 1024 * 1024;

/// The user-data.
pub fn user_data(bootstrap: &Bootstrap) -> Result<String, Error> {
    let text = match bootstrap {
        Bootstrap::CloudInit(document) => document.clone(),
        // cloud-init runs what begins like a script once, as root, at the end of the first boot.
        Bootstrap::StartScript(script) if script.starts_with("#!") => script.clone(),
        Bootstrap::StartScript(script) => format!("#!/bin/sh\n{script}"),
        Bootstrap::JitConfig(_) => {
            return Err(Error::unsupported("a machine takes `cloud-init` or `start-script`; the host renders them"));
        }
    };
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
    fn each_kind_becomes_what_cloud_init_takes() {
        let text = |bootstrap| user_data(&bootstrap).unwrap();
        assert_eq!(text(Bootstrap::CloudInit("#cloud-config\n{}".into())), "#cloud-config\n{}");
        assert_eq!(text(Bootstrap::StartScript("#!/bin/bash\nx".into())), "#!/bin/bash\nx");
        assert_eq!(text(Bootstrap::StartScript("x".into())), "#!/bin/sh\nx");
    }

    #[test]
    fn what_cannot_be_a_seed_is_refused_and_not_repeated() {
        let error = user_data(&Bootstrap::JitConfig("c2VjcmV0".into())).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported);
        assert!(!error.message.contains("c2VjcmV0"));
        let long = "x".repeat(USER_DATA_MAX + 1);
        assert!(user_data(&Bootstrap::CloudInit(long)).is_err());
    }
}
