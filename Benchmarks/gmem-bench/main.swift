print("gmem-bench")
