"""Small upstreams of our own, and a project that grafts onto them: what the tests of the verbs run on."""
