print("gmem-probe")
