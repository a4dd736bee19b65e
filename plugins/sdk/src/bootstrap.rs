//! How a machine that boots becomes a runner.

use crate::{Bootstrap, Error};

/// The user-data for cloud-init. A secret. cloud-init runs what begins like a script once, as root, at the end of the
/// first boot.
pub fn user_data(bootstrap: &Bootstrap) -> Result<String, Error> {
    match bootstrap {
        Bootstrap::CloudInit(document) => Ok(document.clone()),
        Bootstrap::StartScript(script) if script.starts_with("#!") => Ok(script.clone()),
        Bootstrap::StartScript(script) => Ok(format!("#!/bin/sh\n{script}")),
        Bootstrap::JitConfig(_) => Err(Error::unsupported(
            "a machine that boots takes `cloud-init` or `start-script`; say so in the pool's `bootstrap.kind`",
        )),
    }
}

/// The same, for a provider that takes so many bytes of it.
pub fn user_data_within(max: usize, bootstrap: &Bootstrap) -> Result<String, Error> {
    let text = user_data(bootstrap)?;
    if text.len() > max {
        let length = text.len();
        let message = format!("the bootstrap has {length} bytes and {max} are taken; have it download what is large");
        return Err(Error::invalid_request(message));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{user_data, user_data_within};
    use crate::{Bootstrap, ErrorKind};

    #[test]
    fn each_kind_becomes_what_cloud_init_takes() {
        let text = |bootstrap| user_data(&bootstrap).unwrap();
        assert_eq!(text(Bootstrap::CloudInit("#cloud-config\n{}".into())), "#cloud-config\n{}");
        assert_eq!(text(Bootstrap::StartScript("#!/bin/bash\nx".into())), "#!/bin/bash\nx");
        assert_eq!(text(Bootstrap::StartScript("x".into())), "#!/bin/sh\nx");
    }

    #[test]
    fn what_is_none_is_refused_and_not_repeated() {
        let error = user_data(&Bootstrap::JitConfig("c2VjcmV0".into())).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported);
        assert!(!error.message.contains("c2VjcmV0"));
    }

    #[test]
    fn what_is_too_long_is_refused_with_the_line_that_is_added() {
        assert_eq!(user_data_within(20, &Bootstrap::StartScript("y".repeat(10))).unwrap().len(), 20);
        let error = user_data_within(20, &Bootstrap::StartScript("y".repeat(11))).unwrap_err();
        assert!(error.kind == ErrorKind::InvalidRequest && !error.message.contains("yyy"), "{}", error.message);
    }
}
