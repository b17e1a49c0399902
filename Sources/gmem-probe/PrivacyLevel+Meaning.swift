import GuestMemory

extension PrivacyLevel {
    /// What the level means, for whoever meets the word for the first time.
    var meaning: String {
        switch self {
        case .kernel: "the kernel keeps the host out of private pages"
        case .process: "a real guest_memfd, guard pages keep this process out: for development, no security"
        case .emulated: "an emulated kernel in this process, no KVM: for development and tests, no security"
        }
    }
}
