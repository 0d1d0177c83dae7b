//! What `/status` warns of.

use super::Turn;

impl Turn<'_> {
    /// What keeps the registry from doing its job.
    pub(super) fn obstacles(&self) -> Vec<String> {
        let mut obstacles = Vec::new();
        if let Some(hash) = self
            .core
            .state
            .foreign
            .filter(|_| self.core.state.chain.is_none())
        {
            obstacles.push(format!(
                "a chain with genesis {hash} exists, but the store of this registry is empty: \
                 restore the store, or adopt (axolotl-registry adopt --help); no second genesis will be formed"
            ));
        }
        obstacles.extend(self.core.runtime_fault.clone());
        obstacles.extend(self.fence());
        obstacles
    }

    /// What an operator is to know, obstacles first.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = self.obstacles();
        let state = &self.core.state;
        if state.rules.open_registration {
            warnings.push(
                "registration is open: whoever reaches this port may join; set \
                 REGISTRATION=token"
                    .to_owned(),
            );
        }
        warnings.extend(self.trust_warning());
        if state.shutdown {
            warnings.push(
                "shut down: nothing is started until the registry is started again".to_owned(),
            );
        }
        warnings
    }
}
