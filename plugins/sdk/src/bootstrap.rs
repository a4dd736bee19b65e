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

#[cfg(test)]
mod tests {
    use super::user_data;
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
}
