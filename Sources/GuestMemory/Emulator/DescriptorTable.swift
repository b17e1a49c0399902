/// What a descriptor of the emulated kernel refers to.
enum EmulatedObject {
    case device
    case virtualMachine(EmulatedVirtualMachine)
    case guestMemory(EmulatedFile)
}

/// Descriptor number to object. Linux gives out the lowest free number, so an array stays short.
struct DescriptorTable {
    private var objects: [EmulatedObject?] = []

    subscript(descriptor: Int32) -> EmulatedObject? {
        let index = Int(descriptor)
        return index >= 0 && index < objects.count ? objects[index] : nil
    }

    mutating func insert(_ object: EmulatedObject, at descriptor: Int32) {
        let index = Int(descriptor)
        while objects.count <= index { objects.append(nil) }
        objects[index] = object
    }

    mutating func remove(_ descriptor: Int32) -> EmulatedObject? {
        guard let object = self[descriptor] else { return nil }
        objects[Int(descriptor)] = nil
        return object
    }
}
